r"""Exact mean of LoRA adapters of different ranks.

Device i trains :math:`\Delta_i = s_i B_i A_i` with its own rank r_i and scaling s_i, and has n_i
examples. The server wants

.. math:: \bar\Delta = \sum_i w_i s_i B_i A_i, \qquad w_i = n_i / \sum_j n_j

and not :math:`(\sum_i w_i B_i)(\sum_i w_i A_i)`, which is another matrix and does not even exist
where ranks differ. The sum is a product of two stacks,

.. math:: \bar\Delta = P Q, \quad P = [w_1 s_1 B_1 \cdots w_k s_k B_k] \in R^{m \times R},
          \quad Q = [A_1; \cdots; A_k] \in R^{R \times n}, \quad R = \sum_i r_i

so the m x n matrix need not be formed: with :math:`P = Q_P R_P` and :math:`Q^T = Q_Q R_Q`, the
singular value decomposition of the small core :math:`R_P R_Q^T = U \Sigma V^T` (R x R) gives that
of the mean, :math:`\bar\Delta = (Q_P U) \Sigma (Q_Q V)^T`. Its first r terms are the best rank-r
approximation (Eckart and Young, 1936); the energy that they leave out is
:math:`\sum_{j>r} \sigma_j^2 / \sum_j \sigma_j^2`. The singular values are split evenly,
:math:`B = Q_P U \Sigma^{1/2}`, :math:`A = \Sigma^{1/2} (Q_Q V)^T`, so the mean has a scaling of 1.

Where the stacks would hold more numbers than the matrix itself, R (m + n) > m n, the matrix is
formed and summed instead. So memory never exceeds that of the adapted weights, however many
devices reply, and nothing is ever dropped before the last step.

Arithmetic is float32: against float64 the relative error of the mean stays below 1e-5 (see the
tests), under what one optimizer step moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from flower_strategy.adapter import AdapterError, AdapterState, FloatArray, LoraFactors

DEFAULT_STACK_LIMIT = 1024
"""Stacked rank at which a sum is first compressed to its numeric rank."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular value decomposition ``left * values @ right`` of one layer's sum.

    Attributes
    ----------
    left : FloatArray
        Shape (out, k), orthonormal columns.
    values : FloatArray
        Shape (k,), descending, none below the numeric rank's tolerance.
    right : FloatArray
        Shape (k, in), orthonormal rows.
    """

    left: FloatArray
    values: FloatArray
    right: FloatArray

    def truncated(self, rank: int) -> LoraFactors:
        """Return the first `rank` terms as factors with the values split evenly."""
        root = np.sqrt(self.values[:rank])
        return LoraFactors(
            b=np.ascontiguousarray(self.left[:, :rank] * root),
            a=np.ascontiguousarray(root[:, None] * self.right[:rank]),
        )

    def energies(self, rank: int) -> tuple[float, float]:
        """Return (energy of all terms, energy of those after the first `rank`)."""
        squares = np.square(self.values, dtype=np.float64)
        return float(squares.sum()), float(squares[rank:].sum())


class FactoredSum:
    """Weighted sum of products ``b @ a`` of one layer, folded in one product at a time.

    Parameters
    ----------
    shape : tuple[int, int]
        (out, in) of the layer's weight.
    stack_limit : int (default: 1024)
        Stacked rank at which the sum is compressed to its numeric rank. When that does not free
        at least half, the limit doubles, so that compression stays a small share of the work.
    """

    def __init__(self, shape: tuple[int, int], *, stack_limit: int = DEFAULT_STACK_LIMIT) -> None:
        rows, columns = shape
        self.shape = shape
        self._widest = rows * columns // (rows + columns)
        self._limit = stack_limit
        self._left: list[FloatArray] = []
        self._right: list[FloatArray] = []
        self._dense: FloatArray | None = None

    @property
    def stacked_rank(self) -> int:
        """Number of rank-one terms held; 0 once the dense matrix is held instead."""
        return sum(block.shape[1] for block in self._left)

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        stacks = sum(block.nbytes for block in (*self._left, *self._right))
        return stacks + (0 if self._dense is None else self._dense.nbytes)

    def add(self, factors: LoraFactors, weight: float) -> None:
        """Add ``weight * b @ a``."""
        if factors.shape != self.shape:
            raise AdapterError(f"Factors of a {factors.shape} weight in a sum of {self.shape}.")
        if self._dense is not None:
            self._dense += np.float32(weight) * (factors.b @ factors.a)
            return
        self._left.append(np.float32(weight) * factors.b)
        self._right.append(factors.a)
        if self.stacked_rank > self._widest:
            self._form_dense()
        elif self.stacked_rank > self._limit:
            self._compress()

    def spectrum(self) -> Spectrum:
        """Return the singular value decomposition of the sum so far."""
        if self._dense is not None:
            return _numeric(self._dense, self.shape)
        if not self._left:
            rows, columns = self.shape
            empty = np.zeros(0, np.float32)
            return Spectrum(
                np.zeros((rows, 0), np.float32), empty, np.zeros((0, columns), np.float32)
            )
        left_basis, left_core = np.linalg.qr(np.hstack(self._left))
        right_basis, right_core = np.linalg.qr(np.vstack(self._right).T)
        inner = _numeric(left_core @ right_core.T, self.shape)
        return Spectrum(left_basis @ inner.left, inner.values, inner.right @ right_basis.T)

    def _compress(self) -> None:
        spectrum = self.spectrum()
        self._left = [spectrum.left * spectrum.values]
        self._right = [spectrum.right]
        if 2 * self.stacked_rank > self._limit:
            self._limit *= 2

    def _form_dense(self) -> None:
        self._dense = np.hstack(self._left) @ np.vstack(self._right)
        self._left, self._right = [], []


def _numeric(matrix: FloatArray, shape: tuple[int, int]) -> Spectrum:
    """Decompose, keeping the terms above the rounding error of the largest (LAPACK's rule)."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    tolerance = values[:1].sum() * max(shape) * np.finfo(np.float32).eps
    count = int(np.count_nonzero(values > tolerance))
    return Spectrum(left[:, :count], values[:count], right[:count])


@dataclass(frozen=True, eq=False)
class Aggregate:
    """The mean of a cluster's adapters, cut to one rank.

    Attributes
    ----------
    adapter : AdapterState
        The mean, scaling 1, terms ordered by singular value; a layer whose mean has a lower rank
        has fewer terms, but at least one.
    discarded_energy : float
        Share of the squared singular values of all layers that the cut left out, in [0, 1].
    discarded_by_layer : dict[str, float]
        The same share for every layer.
    """

    adapter: AdapterState
    discarded_energy: float
    discarded_by_layer: dict[str, float]


class AdapterMean:
    """Weighted mean of adapters, folded in as they arrive.

    Parameters
    ----------
    shapes : dict[str, tuple[int, int]]
        Layer -> (out, in); every adapter added must have exactly these layers.
    stack_limit : int (default: 1024)
        See `FactoredSum`.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, int]],
        *,
        stack_limit: int = DEFAULT_STACK_LIMIT,
    ) -> None:
        self._sums = {
            name: FactoredSum(shape, stack_limit=stack_limit) for name, shape in shapes.items()
        }
        self.total_weight = 0.0
        self.count = 0

    @property
    def num_bytes(self) -> int:
        """Bytes held by all layers' sums."""
        return sum(total.num_bytes for total in self._sums.values())

    def add(self, adapter: AdapterState, *, weight: float) -> None:
        """Fold in one adapter.

        Raises
        ------
        AdapterError
            Layers or shapes differ from those of the mean. Nothing is added then.
        """
        if adapter.shapes != {name: total.shape for name, total in self._sums.items()}:
            raise AdapterError("The adapter's layers or shapes differ from the cluster's.")
        for name, factors in adapter.layers.items():
            self._sums[name].add(factors, weight * adapter.scaling)
        self.total_weight += weight
        self.count += 1

    def result(self, rank: int) -> Aggregate:
        """Return the mean so far, cut to `rank`.

        Raises
        ------
        AdapterError
            Nothing was added.
        """
        if self.total_weight <= 0:
            raise AdapterError("There is no mean of zero adapters.")
        layers, discarded = {}, {}
        total = lost = 0.0
        # The layers are many and small: one thread each is up to ten times faster than threads
        # that wait for each other, above all on a machine that also trains.
        with threadpool_limits(limits=1, user_api="blas"):
            spectra = {name: layer_sum.spectrum() for name, layer_sum in self._sums.items()}
        for name, spectrum in spectra.items():
            mean = Spectrum(
                spectrum.left, spectrum.values / np.float32(self.total_weight), spectrum.right
            )
            layer_total, layer_lost = mean.energies(rank)
            discarded[name] = layer_lost / layer_total if layer_total > 0 else 0.0
            total, lost = total + layer_total, lost + layer_lost
            factors = mean.truncated(rank)
            layers[name] = factors if factors.rank else _zero(self._sums[name].shape)
        return Aggregate(AdapterState(layers), lost / total if total > 0 else 0.0, discarded)


def _zero(shape: tuple[int, int]) -> LoraFactors:
    return LoraFactors(b=np.zeros((shape[0], 1), np.float32), a=np.zeros((1, shape[1]), np.float32))


def truncate(adapter: AdapterState, rank: int) -> Aggregate:
    """Return the best approximation of one adapter at `rank`, and what it leaves out."""
    mean = AdapterMean(adapter.shapes)
    mean.add(adapter, weight=1.0)
    return mean.result(rank)
