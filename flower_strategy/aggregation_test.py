from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flower_strategy.adapter import AdapterError, AdapterState, LoraFactors, lora_scaling
from flower_strategy.aggregation import AdapterMean, FactoredSum, truncate

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


def test_memory_stops_growing_at_the_size_of_the_matrix() -> None:
    generator = np.random.default_rng(2)
    shape = (48, 64)
    layer_sum = FactoredSum(shape, stack_limit=16)
    most = 0
    for _ in range(300):
        layer_sum.add(one_layer(generator, shape, 4, 1.0).layers[LAYER], 1.0)
        most = max(most, layer_sum.num_bytes)
    assert most <= 4 * shape[0] * shape[1]
    assert layer_sum.num_bytes == 4 * shape[0] * shape[1]


def test_replies_that_share_a_subspace_stay_small_for_any_number_of_devices() -> None:
    generator = np.random.default_rng(3)
    shape = (200, 300)
    shared = generator.normal(size=(4, shape[1])).astype(np.float32)
    layer_sum = FactoredSum(shape, stack_limit=16)
    reference = np.zeros(shape)
    for _ in range(100):
        b = generator.normal(size=(shape[0], 4)).astype(np.float32)
        layer_sum.add(LoraFactors(b=b, a=shared), 0.5)
        reference += 0.5 * b.astype(np.float64) @ shared
        assert layer_sum.stacked_rank <= 16
    spectrum = layer_sum.spectrum()
    assert len(spectrum.values) == 4
    assert relative_error(spectrum.left * spectrum.values @ spectrum.right, reference) < 1e-5


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
