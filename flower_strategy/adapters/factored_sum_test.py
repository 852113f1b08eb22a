import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flower_strategy.adapters.adapter import AdapterError, Float32Array, LoraFactors
from flower_strategy.adapters.factored_sum import FactoredSum, _rank_exceeds

SIZE = 120
Blocks = Sequence[Float32Array]


def normal(seed: int, *shape: int) -> Float32Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def folded(left: Blocks, right: Blocks, *, stack_limit: int = 1024) -> FactoredSum:
    total = FactoredSum((left[0].shape[0], right[0].shape[1]), stack_limit=stack_limit)
    for b, a in zip(left, right, strict=True):
        total.add(LoraFactors(b=b, a=a), 1.0)
    return total


def cut(left: Blocks, right: Blocks, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the best approximation of the sum, and all singular values, in float64."""
    product = np.hstack(left).astype(np.float64) @ np.vstack(right).astype(np.float64)
    u, values, v = np.linalg.svd(product, full_matrices=False)
    return (u[:, :rank] * values[:rank]) @ v[:rank], values


def error(total: FactoredSum, reference: NDArray[np.float64], rank: int) -> float:
    factors = total.leading(rank).factors
    product = factors.b.astype(np.float64) @ factors.a.astype(np.float64)
    return float(np.linalg.norm(product - reference) / np.linalg.norm(reference))


A = normal(0, 8, SIZE)
B = normal(1, SIZE, 8)
DECAY = np.logspace(0, -6, 16).astype(np.float32)
SCALES = [np.float32(10.0 ** (i % 5 - 2)) for i in range(6)]
HARD: dict[str, tuple[Blocks, Blocks]] = {
    "independent": (
        [normal(i, SIZE, 8) for i in range(6)],
        [normal(-~i * 9, 8, SIZE) for i in range(6)],
    ),
    "a frozen": ([normal(i, SIZE, 8) for i in range(6)], [A] * 6),
    "a nearly frozen": (
        [normal(i, SIZE, 8) for i in range(6)],
        [A + np.float32(1e-6) * normal(50 + i, 8, SIZE) for i in range(6)],
    ),
    "all nearly alike": (
        [B + np.float32(1e-3) * normal(i, SIZE, 8) for i in range(6)],
        [A + np.float32(1e-3) * normal(50 + i, 8, SIZE) for i in range(6)],
    ),
    "nearly cancelling": ([B, -B + np.float32(1e-4) * normal(2, SIZE, 8)], [A, A]),
    "values down to 1e-6": (
        [normal(i, SIZE, 16) * DECAY for i in range(3)],
        [normal(50 + i, 16, SIZE) for i in range(3)],
    ),
    "small b, large a": (
        [normal(i, SIZE, 8) * scale for i, scale in enumerate(SCALES)],
        [normal(50 + i, 8, SIZE) / scale for i, scale in enumerate(SCALES)],
    ),
    "wider than the matrix": (
        [normal(i, SIZE, 8) for i in range(40)],
        [normal(50 + i, 8, SIZE) for i in range(40)],
    ),
    "tall": ([normal(i, SIZE, 8) for i in range(9)], [normal(50 + i, 8, 40) for i in range(9)]),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("limit", [4, 1024])
def test_the_leading_terms_equal_those_of_a_float64_decomposition(name: str, limit: int) -> None:
    left, right = HARD[name]
    total = folded(left, right, stack_limit=limit)
    for rank in (1, 8, 16):
        reference, values = cut(left, right, rank)
        assert error(total, reference, rank) < 1e-5
        found = total.leading(rank)
        squares = np.square(values)
        assert found.total == pytest.approx(squares.sum(), rel=1e-5)
        assert found.lost == pytest.approx(squares[rank:].sum(), rel=1e-3, abs=1e-7 * squares.sum())


def test_the_factors_are_ordered_orthogonal_and_split_evenly() -> None:
    factors = folded(*HARD["independent"]).leading(12, scale=0.5).factors
    for gram in (factors.b.T @ factors.b, factors.a @ factors.a.T):
        values = gram.diagonal()
        assert (np.diff(values) <= 0).all()
        np.testing.assert_allclose(gram, np.diag(values), atol=1e-5 * values[0])
    np.testing.assert_allclose(
        (factors.b.T @ factors.b).diagonal(), (factors.a @ factors.a.T).diagonal(), rtol=1e-5
    )


def test_a_scale_scales_the_terms_and_their_energies() -> None:
    total = folded(*HARD["independent"])
    plain, scaled = total.leading(4), total.leading(4, scale=-0.5)
    np.testing.assert_allclose(
        scaled.factors.b @ scaled.factors.a,
        -0.5 * (plain.factors.b @ plain.factors.a),
        rtol=1e-4,
        atol=1e-5,
    )
    assert scaled.total == pytest.approx(plain.total / 4)
    assert scaled.lost == pytest.approx(plain.lost / 4)


def test_a_sum_that_cancels_has_no_terms() -> None:
    found = folded([B, -B], [A, A]).leading(8)
    assert found.factors.rank == 0
    assert found.total == found.lost == 0.0


def test_zeros_and_nothing_have_no_terms() -> None:
    assert FactoredSum((4, 5)).leading(2).factors.rank == 0
    zero = folded([np.zeros((SIZE, 4), np.float32)], [A[:4]], stack_limit=1)
    assert zero.leading(2).factors.rank == 0
    zero_a = folded([B], [np.zeros_like(A)], stack_limit=1)
    assert zero_a.leading(2).factors.rank == 0


def test_memory_stops_growing_at_twice_the_size_of_the_matrix() -> None:
    shape = (48, 64)
    total = FactoredSum(shape, stack_limit=16)
    most = 0
    for seed in range(300):
        total.add(LoraFactors(b=normal(seed, 48, 4), a=normal(seed + 1, 4, 64)), 1.0)
        most = max(most, len(pickle.dumps(total)))
    # Besides the numbers, pickle's overhead for some blocks.
    assert most <= 2 * 4 * shape[0] * shape[1] + 4096


def test_independent_rows_are_told_from_shared_ones() -> None:
    shared = normal(3, 16, 300)
    mixed = normal(4, 64, 16) @ shared
    for rows, rank, exceeds in (
        (normal(5, 200, 300), 100, True),
        (mixed, 16, False),
        (mixed + np.float32(1e-6) * normal(6, 64, 300), 16, False),
        # A sample of 164 rows does not fit: nothing is certain.
        (normal(5, 120, 300), 100, False),
    ):
        assert _rank_exceeds(rows, rank) is exceeds


def test_replies_that_share_a_stay_small_for_any_number_of_devices() -> None:
    shared = normal(0, 4, 300)
    total = FactoredSum((200, 300), stack_limit=16)
    reference = np.zeros((200, 300))
    for seed in range(100):
        b = normal(seed, 200, 4)
        total.add(LoraFactors(b=b, a=shared), 0.5)
        reference += 0.5 * b.astype(np.float64) @ shared
        assert total.stacked_rank <= 16
    assert total.leading(8).factors.rank == 4
    assert error(total, reference, 4) < 1e-5


@pytest.mark.parametrize("devices", [3, 60])
def test_a_sum_is_merged_into_another(devices: int) -> None:
    left = [normal(i, SIZE, 4) for i in range(devices)]
    right = [normal(99 + i, 4, SIZE) for i in range(devices)]
    whole = folded([B], [A])
    whole.merge(folded(left, right), 0.25)
    halves = [np.float32(0.25) * b for b in left]
    reference, _ = cut([B, *halves], [A, *right], 12)
    assert error(whole, reference, 12) < 1e-5


def test_other_shapes_are_refused() -> None:
    other: Any = LoraFactors(b=normal(0, 3, 2), a=normal(1, 2, 4))
    with pytest.raises(AdapterError, match="sum of"):
        FactoredSum((4, 4)).add(other, 1.0)
