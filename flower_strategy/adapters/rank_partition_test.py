import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flower_strategy.adapters.adapter import AdapterError, AdapterState, LoraFactors
from flower_strategy.adapters.mean import AdapterMean

LAYER = "layer"
SHAPE = (30, 44)


def device(seed: int, rank: int, scaling: float = 1.0) -> AdapterState:
    generator = np.random.default_rng(seed)
    factors = LoraFactors(
        b=generator.standard_normal((SHAPE[0], rank), dtype=np.float32),
        a=generator.standard_normal((rank, SHAPE[1]), dtype=np.float32),
    )
    return AdapterState({LAYER: factors}, scaling)


def reference(adapters: Sequence[AdapterState], weights: Sequence[float]) -> NDArray[np.float64]:
    """The mean of every rank-one term over those that have it, term by term, dense."""
    total = np.zeros(SHAPE)
    for term in range(max(adapter.rank for adapter in adapters)):
        having = [(a, w) for a, w in zip(adapters, weights, strict=True) if a.rank > term]
        share = sum(weight for _, weight in having)
        for adapter, weight in having:
            factors = adapter.layers[LAYER]
            b, a = factors.b[:, term].astype(np.float64), factors.a[term].astype(np.float64)
            total += weight / share * adapter.scaling * np.outer(b, a)
    return total


def mean_of(
    adapters: Sequence[AdapterState], weights: Sequence[float], **options: object
) -> AdapterMean:
    mean = AdapterMean({LAYER: SHAPE}, weighting="rank-partitioned", **options)  # type: ignore[arg-type]
    for adapter, weight in zip(adapters, weights, strict=True):
        mean.add(adapter, weight=weight)
    return mean


def error(mean: AdapterMean, expected: NDArray[np.float64]) -> float:
    found = mean.result(min(SHAPE)).adapter.delta(LAYER)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@settings(max_examples=60, deadline=None)
@given(
    ranks=st.lists(st.sampled_from([1, 2, 3, 4, 6, 8]), min_size=1, max_size=20),
    named=st.booleans(),
    limit=st.sampled_from([2, 1024]),
    seed=st.integers(0, 2**20),
)
def test_every_term_is_averaged_over_those_that_have_it(
    ranks: list[int], named: bool, limit: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    weights = generator.integers(1, 100, len(ranks)).tolist()
    adapters = [device(seed + i, rank, 1.0 + i % 3) for i, rank in enumerate(ranks)]
    if named:
        mean = mean_of(adapters, weights, ranks=[1, 2, 3, 4, 6, 8], stack_limit=limit)
    else:
        # Without the ranks named they may come in any order while terms are apart.
        mean = mean_of(adapters[:3], weights[:3])
        adapters, weights = adapters[:3], weights[:3]
    assert error(mean, reference(adapters, weights)) < 1e-5


def test_many_devices_are_summed_exactly_when_the_ranks_are_named() -> None:
    ranks = [2, 4, 8] * 40
    adapters = [device(i, rank) for i, rank in enumerate(ranks)]
    weights = [1.0 + i % 5 for i in range(len(ranks))]
    mean = mean_of(adapters, weights, ranks=[2, 4, 8])
    assert error(mean, reference(adapters, weights)) < 1e-5
    # Three partitions, each within the bound of one sum.
    assert len(pickle.dumps(mean)) <= 3 * 2 * 4 * SHAPE[0] * SHAPE[1] + 4096


def test_high_terms_are_not_diluted_by_weak_devices() -> None:
    strong = device(0, 8)
    weak = [
        AdapterState(
            {
                LAYER: LoraFactors(
                    b=np.zeros((SHAPE[0], 2), np.float32), a=np.zeros((2, SHAPE[1]), np.float32)
                )
            }
        )
    ] * 9
    high = strong.layers[LAYER].b[:, 2:] @ strong.layers[LAYER].a[2:]
    low = strong.layers[LAYER].b[:, :2] @ strong.layers[LAYER].a[:2]
    assert error(mean_of([strong, *weak], [1.0] * 10), high + 0.1 * low) < 1e-5


def test_with_equal_ranks_it_is_the_exact_mean() -> None:
    adapters = [device(i, 4) for i in range(5)]
    weights = [1.0, 2.0, 3.0, 4.0, 5.0]
    exact = AdapterMean({LAYER: SHAPE})
    for adapter, weight in zip(adapters, weights, strict=True):
        exact.add(adapter, weight=weight)
    expected = exact.result(30).adapter.delta(LAYER).astype(np.float64)
    assert error(mean_of(adapters, weights), expected) < 1e-5


def test_a_rank_that_divides_summed_terms_is_refused_and_changes_nothing() -> None:
    adapters = [device(i, 8) for i in range(10)]
    mean = mean_of(adapters, [1.0] * 10)
    before = mean.result(8).adapter.delta(LAYER)
    with pytest.raises(AdapterError, match=r"Rank 4 lies within terms 0 to 8.*known are \[8\]"):
        mean.add(device(99, 4), weight=1.0)
    assert mean.count == 10
    np.testing.assert_array_equal(mean.result(8).adapter.delta(LAYER), before)


def test_another_weighting_is_refused() -> None:
    with pytest.raises(AdapterError, match="not 'fair'"):
        AdapterMean({LAYER: SHAPE}, weighting="fair")  # type: ignore[arg-type]
