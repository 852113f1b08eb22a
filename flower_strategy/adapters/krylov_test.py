import numpy as np
import pytest
from numpy.typing import NDArray

from flower_strategy.adapters.adapter import Float32Array, LoraFactors
from flower_strategy.adapters.factored_sum import FactoredSum
from flower_strategy.adapters.krylov import basis_by_square, basis_of, leading_basis

ORDER, WIDTH = 400, 520


def normal(seed: int, *shape: int) -> Float32Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def with_values(values: NDArray[np.float64], seed: int = 0) -> Float32Array:
    """Return a matrix of shape (ORDER, WIDTH) with these singular values."""
    left, _ = np.linalg.qr(normal(seed, ORDER, len(values)).astype(np.float64))
    right, _ = np.linalg.qr(normal(seed + 1, WIDTH, len(values)).astype(np.float64))
    return np.asarray((left * values) @ right.T, dtype=np.float32)


def relative_error(matrix: Float32Array, basis: Float32Array, count: int) -> float:
    """Return how far the leading terms within the basis are from those of float64."""
    wide = matrix.astype(np.float64)
    left, values, right = np.linalg.svd(wide, full_matrices=False)
    wanted = (left[:, :count] * values[:count]) @ right[:count]
    columns, _ = np.linalg.qr(basis.astype(np.float64))
    mixing, found, rows = np.linalg.svd(columns.T @ wide, full_matrices=False)
    product = (columns @ mixing[:, :count] * found[:count]) @ rows[:count]
    return float(np.linalg.norm(product - wanted) / np.linalg.norm(wanted))


def energy_error(matrix: Float32Array, basis: Float32Array, count: int) -> float:
    """Return the share of the leading terms' energy that the basis lacks."""
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[:count]
    found = np.linalg.svd(basis.T.astype(np.float64) @ matrix, compute_uv=False)[:count]
    return float(1.0 - np.square(found).sum() / np.square(values).sum())


MATRICES = {
    "little decay": with_values(np.linspace(2.0, 0.0, ORDER) ** 4),
    "slow decay": with_values(1.0 / np.arange(1, ORDER + 1)),
    "fast decay": with_values(np.logspace(0, -6, ORDER)),
    "one large term": with_values(np.append(1e4, np.linspace(2.0, 0.0, ORDER - 1) ** 4)),
    "a very large term": with_values(np.append(1e7, np.linspace(2.0, 0.0, ORDER - 1) ** 4)),
    "repeated values": with_values(np.repeat([9.0, 5.0, 1.0], [20, 30, 300])),
    "fewer terms than wanted": with_values(np.full(5, 2.0)),
    "more terms than wanted": with_values(np.linspace(1.0, 2.0, 30)),
}


@pytest.mark.parametrize("count", [2, 20])
@pytest.mark.parametrize("name", MATRICES)
def test_the_basis_has_the_leading_terms_of_a_float64_decomposition(name: str, count: int) -> None:
    matrix = MATRICES[name]
    basis = leading_basis(matrix, count)
    assert basis is not None
    assert basis.shape[0] == ORDER
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-4)
    # The first two of twenty equal terms are any two.
    equal = name in ("repeated values", "fewer terms than wanted") and count == 2
    error = energy_error if equal else relative_error
    assert error(matrix, basis, count) < 1e-5


def test_a_zero_matrix_has_a_basis() -> None:
    basis = leading_basis(np.zeros((ORDER, WIDTH), np.float32), 4)
    assert basis is not None
    assert np.isfinite(basis).all()


def test_values_that_lie_too_close_have_no_small_basis() -> None:
    close = with_values(1.0 + np.linspace(1e-3, 0.0, ORDER))
    assert leading_basis(close, 20) is None


def test_the_same_matrix_has_the_same_basis() -> None:
    first, second = (leading_basis(MATRICES["slow decay"], 8) for _ in range(2))
    assert first is not None
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("count", [2, 20])
@pytest.mark.parametrize("name", MATRICES)
def test_the_square_has_the_leading_terms_too_or_says_that_it_lacks_them(
    name: str, count: int
) -> None:
    matrix = MATRICES[name]
    basis = basis_by_square(matrix, count)
    # The square of the large term hides all others; any two of equal terms are as close.
    if name == "one large term" or (name, count) == ("repeated values", 2):
        assert basis is None
        return
    assert basis is not None
    assert basis.dtype == np.float32
    equal = name == "fewer terms than wanted" and count == 2
    error = energy_error if equal else relative_error
    assert error(matrix, basis, count) < 1e-5


@pytest.mark.parametrize(
    ("order", "count", "exists"), [(127, 4, False), (128, 4, True), (128, 33, False)]
)
def test_small_matrices_and_high_ranks_are_left_to_float64(
    order: int, count: int, exists: bool
) -> None:
    assert (basis_of(normal(0, order, order), count) is not None) is exists


@pytest.mark.parametrize("shape", [(1024, 1100), (1100, 1024)])
def test_a_sum_wider_than_its_matrix_has_the_leading_terms_of_float64(
    shape: tuple[int, int],
) -> None:
    total, reference = FactoredSum(shape), np.zeros(shape)
    for seed in range(20):
        factors = LoraFactors(b=normal(seed, shape[0], 30), a=normal(99 + seed, 30, shape[1]))
        total.add(factors, 0.9**seed)
        reference += 0.9**seed * factors.b.astype(np.float64) @ factors.a
    found = total.leading(16, scale=-0.5)
    assert total.stacked_rank == 0
    # The leading 16 of the matrix, from the eigenvectors of its Gram matrix.
    energies, vectors = np.linalg.eigh(reference @ reference.T)
    wanted = -0.5 * vectors[:, -16:] @ (vectors[:, -16:].T @ reference)
    product = found.factors.b.astype(np.float64) @ found.factors.a
    assert np.linalg.norm(product - wanted) < 1e-5 * np.linalg.norm(wanted)
    assert found.total == pytest.approx(0.25 * energies.sum(), rel=1e-5)
    assert found.lost == pytest.approx(0.25 * energies[:-16].sum(), rel=1e-5)
    lengths = np.linalg.norm(found.factors.b, axis=0)
    np.testing.assert_allclose(lengths, np.linalg.norm(found.factors.a, axis=1), rtol=1e-4)
    assert (np.diff(lengths) <= 0).all()
