import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_strategy.adapters.adapter import (
    AdapterError,
    AdapterState,
    initial_adapter,
)
from flower_strategy.adapters.int8 import rounded
from flower_strategy.adapters.mean import AdapterMean
from flower_strategy.adapters.stacking import is_zero, stacked
from flower_strategy.testing.adapters import SHAPES, random_adapter


def dense(whole: AdapterState, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    factors = whole.layers[name]
    return whole.scaling * (factors.b.astype(np.float64) @ factors.a.astype(np.float64))


RANKS = st.lists(st.tuples(st.integers(1, 6), st.sampled_from([0.25, 1.0, 4.0])), min_size=1)


@settings(deadline=None, max_examples=40)
@given(ranks=RANKS, weights=st.lists(st.floats(-3, 3), min_size=8, max_size=8))
def test_a_sum_is_that_of_the_dense_matrices(
    ranks: list[tuple[int, float]], weights: list[float]
) -> None:
    ranks = ranks[:8]
    parts = [
        (weights[place], random_adapter(rank, place, scaling=scaling))
        for place, (rank, scaling) in enumerate(ranks)
    ]
    total = stacked(parts)
    assert total.rank == sum(rank for rank, _ in ranks)
    for name in SHAPES:
        expected = sum(weight * dense(part, name) for weight, part in parts)
        np.testing.assert_allclose(dense(total, name), expected, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(
    ranks=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    steps=st.lists(st.integers(1, 50), min_size=6, max_size=6),
    seed=st.integers(0, 100),
)
def test_a_devices_model_and_the_mean_are_what_dense_matrices_give(
    ranks: list[int], steps: list[int], seed: int
) -> None:
    own = [random_adapter(rank, seed + place, scaling=0.5) for place, rank in enumerate(ranks)]
    sent = [rounded(one) for one in own]
    mean = AdapterMean(SHAPES)
    for one, weight in zip(sent, steps, strict=False):
        mean.add(one, weight=weight)
    cluster = mean.result(5 * len(ranks)).adapter
    total = sum(steps[: len(ranks)])
    for name in SHAPES:
        expected = sum(
            weight / total * dense(one, name) for one, weight in zip(sent, steps, strict=False)
        )
        np.testing.assert_allclose(dense(cluster, name), expected, atol=1e-4)
        for mine, said in zip(own, sent, strict=True):
            fixed = stacked([(1.0, cluster), (-1.0, said)])
            model = dense(fixed, name) + dense(mine, name)
            personal = expected + (dense(mine, name) - dense(said, name))
            np.testing.assert_allclose(model, personal, atol=1e-4)


def test_adapters_of_other_layers_have_no_sum() -> None:
    other = AdapterState({"up": random_adapter(2, 0).layers["up"]})
    with pytest.raises(AdapterError, match="different layers"):
        stacked([(1.0, random_adapter(2, 0)), (1.0, other)])
    with pytest.raises(AdapterError, match="sum of 0 adapters"):
        stacked([])


def test_an_initial_adapter_is_zero_and_a_trained_one_is_not() -> None:
    initial = initial_adapter(SHAPES, rank=3, seed=0)
    assert is_zero(initial)
    initial.layers["down"].b[0, 0] = 1e-9
    assert not is_zero(initial)
