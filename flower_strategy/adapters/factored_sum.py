r"""Sum of low-rank products of one layer, and its leading singular terms.

Products ``b_i @ a_i`` of a layer of shape (m, n) arrive one by one; their sum is a product of two
stacks,

.. math:: S = P Q, \quad P = [w_1 B_1 \cdots w_k B_k] \in R^{m \times R}, \quad
          Q = [A_1; \cdots; A_k] \in R^{R \times n}, \quad R = \sum_i r_i

so S need not be formed. Its leading terms come from the stacks' Gram matrices alone. With
:math:`P^T P = L L^T` (Cholesky, pivoted, since stacks may be dependent) there is an orthonormal
:math:`U_P` with :math:`P = U_P L^T`, so S has the singular values of :math:`L^T Q`, and these are
the roots of the eigenvalues of the R x R matrix

.. math:: K = L^T (Q Q^T) L = W \Lambda W^T, \qquad Y = L W, \qquad
          V^T = \Lambda^{-1/2} Y^T Q, \qquad U = P (Q Q^T) Y \Lambda^{-1}

Only the required r columns of W are computed, and the energy of all terms is the trace of K. This
costs two symmetric products over the stacks and a small eigenproblem, instead of two QR
decompositions, their bases and a full singular value decomposition of the core. Forming a Gram
matrix squares the condition number, so it is formed in float64: terms below about 1e-7 of the
largest are lost, which is the precision of the float32 factors themselves.

If the stacks would hold more numbers than the matrix itself, R (m + n) > m n, the matrix is formed,
and further products are folded into it in batches. Its leading terms come from a basis found in
float32 (`flower_strategy.adapters.krylov`); those of a small matrix, or where no such basis is
right to 1e-5, from the Gram matrix of its shorter side. Memory thus stays below about that of the
adapted weight, however many devices reply, and finding the terms takes two to three times that of
one layer at a time. Nothing is dropped before the last step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, lapack, solve_triangular  # type: ignore[import-untyped]
from scipy.linalg.blas import sgemm  # type: ignore[import-untyped]
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from flower_strategy.adapters.adapter import AdapterError, Float32Array, LoraFactors
from flower_strategy.adapters.krylov import TOLERANCE, basis_of

DEFAULT_STACK_LIMIT = 1024
"""Stacked rank at which a sum first looks for rows of ``a`` that devices share."""

_FOLD = 256
"""Terms folded into a dense sum at once: enough for a matrix product at full speed."""

_SAMPLE = 64
"""Rows and columns beyond the rank in question in a sample that is to have more."""

_CLEAR = 1e-3
"""Share of the largest pivot above which one in float32 is no rounding error."""

_STRIP = 1024
"""Rows or columns turned into float64 at once."""

_THREADED = 1024
"""Order from which several threads speed up an eigenproblem; below, they wait for each other."""

# Created once: finding the libraries takes longer than processing a small layer.
_BLAS = ThreadpoolController()

_EPS = float(np.finfo(np.float64).eps)

_SLACK = 16.0
"""Factor by which a sum of rounding errors may exceed their number times the error of one."""

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Leading:
    """Leading singular terms of a sum.

    Attributes
    ----------
    factors : LoraFactors
        ``b @ a`` is the sum of these terms, ordered, singular values split evenly between both.
        Rank 0 where the sum is zero.
    total : float
        Sum of all squared singular values.
    lost : float
        Sum of the squared singular values of the omitted terms.
    """

    factors: LoraFactors
    total: float
    lost: float


class FactoredSum:
    """Weighted sum of one layer's products ``b @ a``, added one at a time.

    Parameters
    ----------
    shape : tuple[int, int]
        (out, in) of the layer's weight.
    stack_limit : int (default: 1024)
        Stacked rank at which rows of ``a`` that depend linearly on others are merged into those
        (with a frozen ``a``, all of them do). If that does not free at least half, the limit
        doubles, so that the search stays a small share of the work.
    """

    def __init__(self, shape: tuple[int, int], *, stack_limit: int = DEFAULT_STACK_LIMIT) -> None:
        rows, columns = shape
        self.shape = shape
        self._widest = rows * columns // (rows + columns)
        self._limit = stack_limit
        self._left: list[Float32Array] = []
        self._right: list[Float32Array] = []
        self._dense: Float32Array | None = None
        self._waiting: _Waiting | None = None

    @property
    def stacked_rank(self) -> int:
        """Number of rank-one terms held beside the matrix."""
        waiting = self._waiting.count if self._waiting else 0
        return int(waiting + sum(block.shape[1] for block in self._left))

    def add(self, factors: LoraFactors, weight: float) -> None:
        """Add ``weight * b @ a``."""
        if factors.shape != self.shape:
            raise AdapterError(f"Factors of a {factors.shape} weight in a sum of {self.shape}.")
        if self._dense is not None:
            self._fold_in(self._dense, factors.b, factors.a, weight)
            return
        self._left.append(np.float32(weight) * factors.b)
        self._right.append(factors.a)
        if self.stacked_rank > self._limit:
            self._merge_dependent()
        if self.stacked_rank > self._widest:
            self._form()

    def merge(self, other: FactoredSum, weight: float) -> None:
        """Add ``weight`` times another sum of the same shape, which does not change."""
        if other._dense is not None:
            dense = self._form()
            dense += np.float32(weight) * other._dense
        blocks = list(zip(other._left, other._right, strict=True))
        if other._waiting:
            blocks.append(other._waiting.terms())
        for b, a in blocks:
            self.add(LoraFactors(b=b, a=a), weight)

    def leading(self, rank: int, *, scale: float = 1.0) -> Leading:
        """Return the leading `rank` singular terms of ``scale`` times the sum."""
        if self._dense is not None and self._waiting:
            self._waiting.fold(self._dense)
            self._waiting = None
        order = min(self.shape) if self._dense is not None else self.stacked_rank
        if not order:
            return _no_terms(self.shape)
        with _BLAS.limit(limits=None if order >= _THREADED else 1, user_api="blas"):
            if self._dense is None:
                return _of_stacks(self._left, self._right, rank, scale)
            return _of_matrix(self._dense, rank, scale)

    def _form(self) -> Float32Array:
        """Return the matrix, which holds the stacks from now on."""
        if self._dense is None:
            self._dense = np.zeros(self.shape, np.float32)
            for b, a in zip(self._left, self._right, strict=True):
                self._fold_in(self._dense, b, a, 1.0)
            self._left, self._right = [], []
        return self._dense

    def _fold_in(
        self, dense: Float32Array, b: Float32Array, a: Float32Array, weight: float
    ) -> None:
        if self._waiting is None:
            self._waiting = _Waiting(self.shape, min(_FOLD, self._widest))
        done = 0
        while done < len(a):
            done += self._waiting.take(b[:, done:], a[done:], weight)
            if self._waiting.is_full:
                self._waiting.fold(dense)

    def _merge_dependent(self) -> None:
        """Express rows of ``a`` that depend on others as combinations of those."""
        rows = np.vstack(self._right)
        if _rank_exceeds(rows, self._limit // 2):
            self._limit *= 2
            return
        factor, order, count = _pivoted_cholesky(_gram(self._right, side=1))
        if 2 * count > self._limit:
            self._limit *= 2
            return
        combinations = np.empty((len(rows), count))
        combinations[order] = solve_triangular(
            factor[:count, :count], factor[:, :count].T, lower=True, trans="T", check_finite=False
        ).T
        self._left = [np.hstack(self._left) @ combinations.astype(np.float32)]
        self._right = [rows[order[:count]]]


class _Waiting:
    """Terms that wait to be folded into a matrix, in one product at full speed."""

    def __init__(self, shape: tuple[int, int], most: int) -> None:
        most = max(most, 1)
        self._left = np.empty((shape[0], most), np.float32)
        self._right = np.empty((most, shape[1]), np.float32)
        self.count = 0

    @property
    def is_full(self) -> bool:
        return self.count == len(self._right)

    def take(self, b: Float32Array, a: Float32Array, weight: float) -> int:
        """Take the first terms of ``weight * b @ a``, as many as fit; return how many."""
        taken = min(len(a), len(self._right) - self.count)
        span = slice(self.count, self.count + taken)
        np.multiply(b[:, :taken], np.float32(weight), out=self._left[:, span])
        self._right[span] = a[:taken]
        self.count += taken
        return taken

    def terms(self) -> tuple[Float32Array, Float32Array]:
        return self._left[:, : self.count], self._right[: self.count]

    def fold(self, dense: Float32Array) -> None:
        """Add the terms to a matrix; none wait then."""
        left, right = self.terms()
        # BLAS takes the transposes without a copy and adds in place.
        sgemm(1.0, right.T, left.T, beta=1.0, c=dense.T, overwrite_c=1)
        self.count = 0


def _rank_exceeds(rows: Float32Array, rank: int) -> bool:
    """Return whether the rank is above this for certain, as the rank of a part of the rows is."""
    sides = [np.arange(rank + _SAMPLE) * (size / (rank + _SAMPLE)) for size in rows.shape]
    if any(len(side) > size for side, size in zip(sides, rows.shape, strict=True)):
        return False
    sample = rows[np.ix_(*(side.astype(np.intp) for side in sides))]
    gram = sample @ sample.T
    largest = float(gram.diagonal().max())
    return int(lapack.spstrf(gram, lower=1, tol=_CLEAR * largest)[2]) > rank


def _of_stacks(
    left: Sequence[Float32Array], right: Sequence[Float32Array], rank: int, scale: float
) -> Leading:
    right_gram = _gram(right, side=1)
    left_gram = _gram(left, side=0)
    floor, order = _EPS * _norm(left_gram) * _norm(right_gram), len(left_gram)
    factor, pivots, _ = _pivoted_cholesky(left_gram)
    core, info = lapack.dsygst(right_gram[np.ix_(pivots, pivots)], factor, itype=3, lower=1)
    if info:
        raise AdapterError(f"LAPACK's dsygst failed with {info}.")
    energies, vectors = _top_eigenpairs(core, rank, floor)
    mixing = np.empty_like(vectors)
    mixing[pivots] = factor @ vectors
    values = np.sqrt(energies)
    columns = _times(left, right_gram @ mixing / energies, side=0)
    rows = _times(right, (mixing / values).T, side=1)
    total = float(np.trace(core)) if len(values) else 0.0
    return _split(columns, values, rows, total, scale, noise=_SLACK * order * floor)


def _of_matrix(matrix: Float32Array, rank: int, scale: float) -> Leading:
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    basis = basis_of(wide, rank)
    if basis is None:
        columns, values, rows, total, noise = _decomposed(wide, rank)
    else:
        columns, values, rows, total, noise = _projected(wide, basis, rank)
    if tall:
        columns, rows = rows.T, columns.T
    return _split(columns, values, rows, total, scale, noise=noise)


_Terms = tuple[Float64Array, Float64Array, Float64Array, float, float]
"""Singular vectors and values, the energy of all terms, and its rounding error."""


def _decomposed(wide: Float32Array | Float64Array, rank: int) -> _Terms:
    gram = _gram([wide], side=1)
    floor, order = _EPS * _norm(gram), len(gram)
    energies, columns = _top_eigenpairs(gram, rank, floor)
    values = np.sqrt(energies)
    rows = _times([wide], (columns / values).T, side=1)
    return columns, values, rows, float(np.trace(gram)), _SLACK * order * floor


def _projected(wide: Float32Array, basis: Float32Array, rank: int) -> _Terms:
    """Return the terms of what lies in the span of the basis."""
    across, _ = np.linalg.qr(basis.astype(np.float64))
    inside, total = np.empty((across.shape[1], wide.shape[1])), 0.0
    for span, strip in _strips([wide], side=1):
        inside[:, span] = across.T @ strip
        total += float(np.vdot(strip, strip))
    mixing, values, rows, _, _ = _decomposed(inside, rank)
    return across @ mixing, values, rows, total, TOLERANCE**2 * total


def _split(
    columns: Float64Array,
    values: Float64Array,
    rows: Float64Array,
    total: float,
    scale: float,
    *,
    noise: float,
) -> Leading:
    """Return factors of orthonormal columns and rows and the singular values.

    Omitted energy below `noise` is rounding error, not a term.
    """
    root = np.sqrt(values * abs(scale))
    factors = LoraFactors(
        b=(columns * (np.sign(scale) * root)).astype(np.float32, order="C"),
        a=(root[:, None] * rows).astype(np.float32, order="C"),
    )
    lost = total - float(np.square(values).sum())
    if lost < noise:
        lost = 0.0
    return Leading(factors, total * scale**2, lost * scale**2)


def _top_eigenpairs(
    matrix: Float64Array, count: int, floor: float
) -> tuple[Float64Array, Float64Array]:
    """Return at most `count` eigenvalues above `floor`, descending, and their vectors.

    Parameters
    ----------
    matrix : Float64Array
        Symmetric, positive semidefinite; only the lower triangle is read.
    count : int
        Most eigenvalues to return.
    floor : float
        Rounding error of the matrix's entries: smaller eigenvalues are noise.
    """
    order = len(matrix)
    energies, vectors = eigh(
        matrix,
        lower=True,
        subset_by_index=(max(0, order - count), order - 1),
        driver="evr",
        check_finite=False,
    )
    kept = energies > floor
    return energies[kept][::-1], vectors[:, kept][:, ::-1]


def _pivoted_cholesky(gram: Float64Array) -> tuple[Float64Array, NDArray[np.intp], int]:
    """Return L, p and the numeric rank k: ``gram[p][:, p] = L @ L.T``, L zero after k columns."""
    tolerance = 4 * _EPS * float(gram.diagonal().max())
    factor, order, count, _ = lapack.dpstrf(gram, lower=1, tol=tolerance)
    factor = np.tril(factor)
    factor[:, count:] = 0.0
    return factor, order.astype(np.intp) - 1, int(count)


def _gram(blocks: Sequence[Float32Array | Float64Array], *, side: int) -> Float64Array:
    """Return the products of the stacked blocks' columns (side 0) or rows (side 1), float64."""
    total: Float64Array | None = None
    for _, strip in _strips(blocks, side=side):
        product = strip.T @ strip if side == 0 else strip @ strip.T
        total = product if total is None else np.add(total, product, out=total)
    assert total is not None
    return total


def _times(
    blocks: Sequence[Float32Array | Float64Array], matrix: Float64Array, *, side: int
) -> Float64Array:
    """Return stacked columns times matrix (side 0) or matrix times stacked rows (side 1)."""
    length = blocks[0].shape[side]
    count = matrix.shape[1 - side]
    result = np.empty((length, count) if side == 0 else (count, length))
    for span, strip in _strips(blocks, side=side):
        if side == 0:
            result[span] = strip @ matrix
        else:
            result[:, span] = matrix @ strip
    return result


def _strips(
    blocks: Sequence[Float32Array | Float64Array], *, side: int
) -> Iterator[tuple[slice, Float64Array]]:
    """Yield the stack of the blocks in strips of its long side, as float64."""
    for start in range(0, blocks[0].shape[side], _STRIP):
        span = slice(start, start + _STRIP)
        parts = [block[span] if side == 0 else block[:, span] for block in blocks]
        yield span, np.concatenate(parts, axis=1 - side, dtype=np.float64)


def _norm(symmetric: Float64Array) -> float:
    """Return an upper bound of the largest eigenvalue: the largest row sum of magnitudes."""
    return float(np.abs(symmetric).sum(axis=1).max())


def _no_terms(shape: tuple[int, int]) -> Leading:
    rows, columns = shape
    empty = LoraFactors(b=np.zeros((rows, 0), np.float32), a=np.zeros((0, columns), np.float32))
    return Leading(empty, 0.0, 0.0)
