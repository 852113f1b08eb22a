import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flower_strategy.adapters.adapter import AdapterError, AdapterState, LoraFactors, lora_scaling
from flower_strategy.adapters.mean import AdapterMean, truncate

LAYER = "layer"


def one_layer(
    generator: np.random.Generator, shape: tuple[int, int], rank: int, scaling: float
) -> AdapterState:
    rows, columns = shape
    factors = LoraFactors(
        b=generator.normal(size=(rows, rank)).astype(np.float32),
        a=generator.normal(size=(rank, columns)).astype(np.float32),
    )
    return AdapterState({LAYER: factors}, scaling)


def dense_mean(adapters: Sequence[AdapterState], weights: Sequence[int]) -> NDArray[np.float64]:
    total = np.zeros(adapters[0].layers[LAYER].shape)
    for adapter, weight in zip(adapters, weights, strict=True):
        factors = adapter.layers[LAYER]
        product = factors.b.astype(np.float64) @ factors.a.astype(np.float64)
        total += weight * adapter.scaling * product
    return np.asarray(total / sum(weights))


def relative_error(value: NDArray[Any], reference: NDArray[Any]) -> float:
    return float(np.linalg.norm(value - reference) / max(float(np.linalg.norm(reference)), 1e-30))


clients = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 4, 8]),  # rank
        st.sampled_from([0.0, 8.0, 16.0]),  # alpha
        st.booleans(),  # rslora
        st.integers(1, 500),  # examples
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(
    clients=clients,
    shape=st.tuples(st.integers(3, 40), st.integers(3, 40)),
    limit=st.sampled_from([1, 4, 1024]),
    seed=st.integers(0, 2**31),
)
def test_the_mean_equals_the_dense_mean_for_mixed_ranks_and_scalings(
    clients: list[tuple[int, float, bool, int]], shape: tuple[int, int], limit: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    adapters = [
        one_layer(generator, shape, rank, lora_scaling(alpha=alpha, rank=rank, rslora=rslora))
        for rank, alpha, rslora, _ in clients
    ]
    weights = [examples for *_, examples in clients]
    mean = AdapterMean({LAYER: shape}, stack_limit=limit)
    for adapter, weight in zip(adapters, weights, strict=True):
        mean.add(adapter, weight=weight)
    full = mean.result(min(shape))
    assert relative_error(full.adapter.delta(LAYER), dense_mean(adapters, weights)) < 1e-5
    assert full.discarded_energy == 0.0


@settings(max_examples=40, deadline=None)
@given(
    rank=st.integers(1, 12),
    limit=st.sampled_from([4, 1024]),
    seed=st.integers(0, 2**31),
)
def test_the_cut_is_the_best_approximation_and_its_energy_is_true(
    rank: int, limit: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    shape = (24, 40)
    adapters = [one_layer(generator, shape, r, 1.0) for r in (2, 3, 4)]
    mean = AdapterMean({LAYER: shape}, stack_limit=limit)
    for adapter in adapters:
        mean.add(adapter, weight=1.0)
    cut = mean.result(rank)
    reference = dense_mean(adapters, [1, 1, 1])
    values = np.linalg.svd(reference, compute_uv=False)
    best = np.sqrt((values[rank:] ** 2).sum())
    error = np.linalg.norm(cut.adapter.delta(LAYER) - reference)
    assert error == pytest.approx(best, rel=1e-4, abs=1e-4)
    lost = (values[rank:] ** 2).sum() / (values**2).sum()
    assert cut.discarded_energy == pytest.approx(lost, rel=1e-4, abs=1e-8)
    assert cut.discarded_by_layer[LAYER] == cut.discarded_energy


def test_the_terms_are_ordered_and_split_evenly() -> None:
    generator = np.random.default_rng(0)
    result = truncate(one_layer(generator, (30, 20), 8, 2.0), 8)
    factors = result.adapter.layers[LAYER]
    b_norms, a_norms = np.linalg.norm(factors.b, axis=0), np.linalg.norm(factors.a, axis=1)
    np.testing.assert_allclose(b_norms, a_norms, rtol=1e-4)
    assert (np.diff(b_norms) <= 1e-5).all()


def test_the_product_of_means_is_something_else() -> None:
    generator = np.random.default_rng(1)
    adapters = [one_layer(generator, (10, 10), 2, 1.0) for _ in range(2)]
    mean = AdapterMean({LAYER: (10, 10)})
    for adapter in adapters:
        mean.add(adapter, weight=1.0)
    factors = [adapter.layers[LAYER] for adapter in adapters]
    wrong = (factors[0].b + factors[1].b) / 2 @ (factors[0].a + factors[1].a) / 2
    assert relative_error(mean.result(10).adapter.delta(LAYER), wrong) > 0.1


def test_adapters_that_move_nothing_have_a_mean_that_moves_nothing() -> None:
    zero = AdapterState(
        {LAYER: LoraFactors(b=np.zeros((5, 2), np.float32), a=np.ones((2, 6), np.float32))}
    )
    result = truncate(zero, 4)
    assert not result.adapter.delta(LAYER).any()
    assert result.discarded_energy == 0.0


def test_an_adapter_with_other_layers_is_refused_and_leaves_the_mean_alone() -> None:
    generator = np.random.default_rng(4)
    mean = AdapterMean({LAYER: (8, 8)})
    good = one_layer(generator, (8, 8), 2, 1.0)
    mean.add(good, weight=1.0)
    with pytest.raises(AdapterError, match="differ from the cluster's"):
        mean.add(one_layer(generator, (8, 9), 2, 1.0), weight=1.0)
    np.testing.assert_allclose(
        mean.result(8).adapter.delta(LAYER), good.delta(LAYER), rtol=1e-4, atol=1e-5
    )


def test_there_is_no_mean_of_nothing() -> None:
    with pytest.raises(AdapterError, match="zero adapters"):
        AdapterMean({LAYER: (8, 8)}).result(2)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_not_a_positive_number_is_refused(weight: float) -> None:
    mean = AdapterMean({LAYER: (8, 8)})
    with pytest.raises(AdapterError, match="positive number"):
        mean.add(one_layer(np.random.default_rng(5), (8, 8), 2, 1.0), weight=weight)
    assert mean.count == 0


def flower_mean(adapters: Sequence[AdapterState], weights: Sequence[int]) -> AdapterState:
    """Return FedAvg's mean of replies with these adapters."""
    replies = []
    for adapter, weight in zip(adapters, weights, strict=True):
        asked = Message(RecordDict(), dst_node_id=1, message_type="train")
        content = RecordDict(
            {
                "arrays": adapter.to_arrays(),
                "metrics": MetricRecord({"num-examples": weight}),
            }
        )
        replies.append(Message(content, reply_to=asked))
    arrays, _ = FedAvg().aggregate_train(server_round=1, replies=replies)
    assert isinstance(arrays, ArrayRecord)
    return AdapterState.from_arrays(arrays, scaling=adapters[0].scaling)


def test_with_equal_ranks_and_a_frozen_the_mean_is_that_of_flowers_fedavg() -> None:
    generator = np.random.default_rng(6)
    shapes = {"first": (96, 64), "second": (32, 160)}
    rank, weights = 8, [3, 40, 11, 7, 250]
    frozen = {
        name: generator.normal(size=(rank, columns)).astype(np.float32)
        for name, (_, columns) in shapes.items()
    }
    adapters = [
        AdapterState(
            {
                name: LoraFactors(
                    b=generator.normal(size=(rows, rank)).astype(np.float32), a=frozen[name]
                )
                for name, (rows, _) in shapes.items()
            },
            scaling=2.0,
        )
        for _ in weights
    ]
    expected = flower_mean(adapters, weights)
    mean = AdapterMean(shapes)
    for adapter, weight in zip(adapters, weights, strict=True):
        mean.add(adapter, weight=weight)
    result = mean.result(rank)
    assert result.discarded_energy == 0.0
    for name, a in frozen.items():
        assert relative_error(expected.layers[name].a, a) < 1e-6
        found = result.adapter.layers[name]
        product = found.b.astype(np.float64) @ found.a.astype(np.float64)
        reference = 2.0 * expected.layers[name].b.astype(np.float64) @ a
        assert relative_error(product, reference) < 1e-6
        # Floe's factors use another basis of this space; in that of the frozen A, B is Flower's.
        back = np.linalg.lstsq(a.T.astype(np.float64), found.a.T.astype(np.float64), rcond=None)[0]
        assert relative_error(found.b @ back.T / 2.0, expected.layers[name].b) < 1e-6


def peak_of_folding(replies: int, shape: tuple[int, int], ranks: Sequence[int]) -> int:
    """Return the peak bytes while that many replies are created, folded in and dropped."""
    generator = np.random.default_rng(7)
    tracemalloc.start()
    try:
        mean = AdapterMean({LAYER: shape}, stack_limit=256)
        for index in range(replies):
            rank = ranks[index % len(ranks)]
            factors = LoraFactors(
                b=generator.standard_normal((shape[0], rank), dtype=np.float32),
                a=generator.standard_normal((rank, shape[1]), dtype=np.float32),
            )
            mean.add(AdapterState({LAYER: factors}), weight=1.0 + index % 3)
        assert mean.result(max(ranks)).adapter.rank == max(ranks)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_bounded_by_the_stack_whatever_the_number_of_replies() -> None:
    rows, columns = shape = (576, 1536)
    ranks = (4, 8, 16, 32)
    matrix = 4 * rows * columns
    reply = 4 * max(ranks) * (rows + columns)
    # The matrix; waiting terms, twice while they are stacked; a float64 strip of 1,024 columns with
    # its products, and the eigenproblem of the smaller side with its workspace.
    waiting = 2 * 4 * 256 * (rows + columns)
    solving = 8 * (2 * rows * 1024 + 6 * rows**2)
    bound = matrix + waiting + reply + solving
    few, many = peak_of_folding(200, shape, ranks), peak_of_folding(1000, shape, ranks)
    assert many < bound
    assert many < 1.02 * few
    assert bound < 1000 * reply * np.mean(ranks) / max(ranks) / 3


def test_a_share_of_an_update_counts_and_two_means_merge_to_that_of_all() -> None:
    generator, shape = np.random.default_rng(3), (9, 7)
    sent = {rank: one_layer(generator, shape, rank, 2.0) for rank in (2, 4)}
    back = {rank: one_layer(generator, shape, rank, 2.0) for rank in (2, 4)}
    first, second = (AdapterMean({LAYER: shape}) for _ in range(2))
    first.add(back[2], weight=3, sent=sent[2], kept=0.25)
    second.add(back[4], weight=5)
    second.add(back[2], weight=2, sent=sent[2], kept=0.0)
    first.merge(second)
    assert (first.count, first.total_weight) == (3, 10)
    shared = sent[2].delta(LAYER) + 0.25 * (back[2].delta(LAYER) - sent[2].delta(LAYER))
    wanted = (3 * shared + 5 * back[4].delta(LAYER) + 2 * sent[2].delta(LAYER)) / 10
    assert relative_error(first.result(7).adapter.delta(LAYER), wanted) < 1e-5
    with pytest.raises(AdapterError, match=r"A share of 0\.5 of an update needs what was sent"):
        first.add(back[2], weight=1, kept=0.5)
