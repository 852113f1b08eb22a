r"""Leading singular vectors of a large matrix, without decomposing all of it.

Let S be the matrix with its shorter side first, of shape (p, q). From random orthonormal columns
:math:`X_1` of shape (p, b) block bidiagonalisation (Golub, Luk and Overton, "A Block Lanczos Method
for Computing the Singular Values and Corresponding Singular Vectors of a Matrix", 1981) makes
orthonormal columns on both sides,

.. math:: S^T X_j = Y_{j-1} B_{j-1}^T + Y_j A_j, \qquad S Y_j = X_j A_j^T + X_{j+1} B_j

so that :math:`M = X^T S Y` is small and block bidiagonal. The leading left singular vectors y of M
give those of S, X y, and what is missing follows from the last block of :math:`M^T y` alone. X and
Y grow until that is small enough. S is not squared, so only terms below about 1e-6 of the largest
are lost.

A block has as many columns as vectors are wanted, so that a repeated singular value is found as
often as it occurs. Every block is made orthogonal to all before it; else values would come twice.
All large products are in float32, the matrix's own precision, and are products of matrices, which
is what makes this faster than a reduction to tridiagonal form, half of which are products with
vectors.

Below a width of about a thousand a basis has half as many columns as the matrix. There
:math:`S S^T` is reduced in float32, and the vectors are held against S itself, since the square
hides small terms beside large ones.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, lapack  # type: ignore[import-untyped]
from scipy.linalg.blas import dtrsm  # type: ignore[import-untyped]

from flower_strategy.adapters.adapter import Float32Array

_EXTRA = 8
"""Vectors beyond the wanted ones that the result spans: their values are closest, and part last."""

_NARROWEST = 8
"""Columns of a block at least: with fewer, products are no faster than those with vectors."""

TOLERANCE = 1e-5
"""Bound of the error of the wanted terms' sum, relative to that sum. What is reached is about
1e-6, the rounding error of the float32 products."""

_LEAST_ORDER, _LEAST_BLOCKS = 1024, 12
"""Shorter side, and blocks that must fit it, from which a Krylov basis is the fastest way."""

_LEAST_SQUARE, _LEAST_SHARE = 128, 4
"""Shorter side, and its share over the vectors wanted, from which float32 saves time."""

_TILE = 128
"""Rows and columns of a matrix that are transposed at once."""

_GROWTH = 8
"""Blocks by which the bases grow."""

_FIRST_LOOK = 4
"""Blocks before the first look at the error."""

_BLOCKS_PER_DIGIT = 1.5
"""Blocks in which the error falls to a tenth, where singular values are close to each other."""

_DEPENDENT = 1e-4
"""Ratio of a block's columns below which its Gram matrix is not decomposed."""

_SMALL = 1e-3
"""Share of a column's size below which it is made orthogonal once more."""

_EPS = float(np.finfo(np.float32).eps)


def basis_of(matrix: Float32Array, count: int) -> Float32Array | None:
    """Return a basis in the way that is the fastest for this size.

    None where neither suffices, or a decomposition in float64 costs little.
    """
    order = len(matrix)
    if order >= max(_LEAST_ORDER, _LEAST_BLOCKS * _width(count)):
        return leading_basis(matrix, count)
    if order >= max(_LEAST_SQUARE, _LEAST_SHARE * count):
        return basis_by_square(matrix, count)
    return None


def _width(count: int) -> int:
    """Return the columns of a block."""
    return max(count, _NARROWEST)


def leading_basis(matrix: Float32Array, count: int) -> Float32Array | None:
    """Return orthonormal columns whose span has the leading `count` left singular vectors.

    Parameters
    ----------
    matrix : Float32Array
        Shape (p, q), p at most q.
    count : int
        Number of vectors.

    Returns
    -------
    Float32Array or None
        Shape (p, count + 8). None where a basis of half the order does not suffice: singular
        values are too close to each other there.
    """
    (order, across), width = matrix.shape, _width(count)
    most = order // 2 // width * width
    # BLAS takes about twice as long where it has to transpose the matrix.
    matrix, transposed = _by_rows(matrix), _by_rows(matrix.T)
    left, right = (np.empty((size, 0), np.float32) for size in (order, across))
    core = np.zeros((most, most), np.float32)
    start = np.random.default_rng(0).standard_normal((order, width), dtype=np.float32)
    block, beyond = _factorised(start)[0], np.zeros((width, width), np.float32)
    look, scale = _FIRST_LOOK * width, 0.0
    for begin in range(0, most, width):
        size = begin + width
        before, now = slice(max(0, begin - width), begin), slice(begin, size)
        if left.shape[1] < size:
            wider = min(begin + _GROWTH * width, most)
            left, right = _widened(left, wider), _widened(right, wider)
        left[:, now] = block
        product = transposed @ left[:, now]
        scale = max(scale, float(np.linalg.norm(product, axis=0).max()))
        if begin:
            product -= right[:, before] @ beyond.T
        right[:, now], part = _orthonormal(product, right[:, :begin], scale)
        core[now, now], core[now, before] = part.T, beyond[:, : before.stop - before.start]
        product = matrix @ right[:, now]
        product -= left[:, now] @ part.T
        block, beyond = _orthonormal(product, left[:, :size], scale)
        if size < look:
            continue
        wide = core[:size, :size].astype(np.float64)
        values, vectors = _leading_eigenpairs(wide @ wide.T, count + _EXTRA)
        missing = np.linalg.norm(beyond @ (wide.T @ vectors)[now], axis=0)
        error = _error(values, missing, count)
        if error <= TOLERANCE:
            return left[:, :size] @ vectors[:, : count + _EXTRA].astype(np.float32)
        # A look at a large basis costs more than a block.
        ahead = width * math.ceil(_BLOCKS_PER_DIGIT * math.log10(error / TOLERANCE))
        look = min(size + ahead, most)
    return None


def _by_rows(matrix: Float32Array) -> Float32Array:
    """Return the matrix with contiguous rows; a copy is made in tiles that fit into a cache."""
    if matrix.flags.c_contiguous:
        return matrix
    copy = np.empty(matrix.shape, np.float32)
    starts = [range(0, size, _TILE) for size in matrix.shape]
    for row, column in itertools.product(*starts):
        tile = slice(row, row + _TILE), slice(column, column + _TILE)
        copy[tile] = matrix[tile]
    return copy


def _widened(basis: Float32Array, columns: int) -> Float32Array:
    """Return the columns, and room for more."""
    wider = np.empty((len(basis), columns), np.float32, order="F")
    wider[:, : basis.shape[1]] = basis
    return wider


def _orthonormal(
    product: Float32Array, basis: Float32Array, scale: float
) -> tuple[Float32Array, Float32Array]:
    """Return Q and R of what of the product is orthogonal to the basis.

    Parameters
    ----------
    product : Float32Array
        The columns, shape (p, b).
    basis : Float32Array
        Orthonormal columns.
    scale : float
        Size of a column before anything was taken from it.
    """
    columns, factor = _factorised(product - basis @ (basis.T @ product))
    # A small column is mostly rounding error, which lies in the basis too.
    if np.abs(factor.diagonal()).min() < _SMALL * scale:
        columns, again = _factorised(columns - basis @ (basis.T @ columns))
        factor = again @ factor
    return columns, factor


def _factorised(columns: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Return Q and R of the columns.

    By Cholesky's decomposition of their Gram matrix, in products of matrices, where float64 leaves
    enough of its square; else by reflections.
    """
    wide = columns.astype(np.float64)
    factor, info = lapack.dpotrf(wide.T @ wide, lower=1)
    sizes = factor.diagonal()
    if info or sizes.min() < _DEPENDENT * sizes.max():
        orthogonal, upper = np.linalg.qr(wide)
        return orthogonal.astype(np.float32), upper.astype(np.float32)
    orthogonal = dtrsm(1.0, factor, wide.T, lower=1).T
    return orthogonal.astype(np.float32), factor.T.astype(np.float32)


def basis_by_square(matrix: Float32Array, count: int) -> Float32Array | None:
    """Return what `leading_basis` does, from all of the matrix times its transpose, in float32.

    This is faster where a Krylov basis would not be much smaller than the matrix. The square loses
    terms below about 1e-3 of the largest, so the result is held against the matrix itself.

    Returns
    -------
    Float32Array or None
        Shape (p, count + 8). None where the error would be larger than `TOLERANCE`.
    """
    order = len(matrix)
    _, vectors = eigh(
        matrix @ matrix.T,
        lower=True,
        subset_by_index=(order - count - _EXTRA, order - 1),
        driver="evr",
        check_finite=False,
    )
    return vectors if _holds(vectors, matrix, count) else None


def _holds(basis: Float32Array, matrix: Float32Array, count: int) -> bool:
    """Return whether the basis is right, whatever rounding did to the matrix's square."""
    rows = basis.T @ matrix
    wide = rows.astype(np.float64)
    values, mixing = np.linalg.eigh(wide @ wide.T)
    values, mixing = values[::-1], mixing[:, ::-1].astype(np.float32)
    wanted = mixing[:, :count]
    missing = matrix @ (rows.T @ wanted) - basis @ wanted * values[:count].astype(np.float32)
    return _error(values, np.linalg.norm(missing, axis=0), count) <= TOLERANCE


def _leading_eigenpairs(
    matrix: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the `count` + 1 largest eigenvalues, descending, and their vectors."""
    order = len(matrix)
    values, vectors = eigh(
        matrix,
        subset_by_index=(max(0, order - count - 1), order - 1),
        driver="evr",
        check_finite=False,
    )
    return values[::-1], vectors[:, ::-1]


def _error(values: NDArray[np.float64], missing: NDArray[np.float64], count: int) -> float:
    """Return an estimate of the relative error of the sum of the wanted terms.

    A vector is off by an angle of at most what is missing over the distance of its squared singular
    value to those that are not among the vectors (Davis and Kahan, 1970), and of about the rounding
    error of a product with it.
    """
    wanted = np.maximum(values[:count], 1e-300)
    gaps = np.maximum(wanted - max(values[-1], 0.0), 1e-300)
    sines = np.maximum(missing[:count] / gaps, _EPS * np.sqrt(wanted[0] / wanted))
    return float(np.sqrt((wanted * np.minimum(sines, 1.0) ** 2).sum() / wanted.sum()))
