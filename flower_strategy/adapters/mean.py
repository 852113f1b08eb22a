r"""Mean of LoRA adapters of different ranks.

Device i trains :math:`\Delta_i = s_i B_i A_i` with its own rank r_i and scaling s_i, and has n_i
examples. The server needs

.. math:: \bar\Delta = \sum_i w_i s_i B_i A_i, \qquad w_i = n_i / \sum_j n_j

and not :math:`(\sum_i w_i B_i)(\sum_i w_i A_i)`, which is a different matrix, and undefined where
ranks differ. The sum is kept as two stacks of factors (`flower_strategy.adapters.factored_sum`),
its first r singular terms are the best rank-r approximation (Eckart and Young, 1936), and the
energy that they leave out is :math:`\sum_{j>r} \sigma_j^2 / \sum_j \sigma_j^2`. The singular values
are split evenly, :math:`B = U \Sigma^{1/2}`, :math:`A = \Sigma^{1/2} V^T`, so the mean has a
scaling of 1.

This mean is called ``exact``. ``rank-partitioned`` divides every rank-one term by the weight of the
devices that have it (see `RankPartitionedMean` for what that favours and when to use it).

Against float64 the relative error of the mean stays below 1e-5 (see the tests), which is less than
the change of one optimizer step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from flower_strategy.adapters.adapter import AdapterError, AdapterState, LayerShapes, LoraFactors
from flower_strategy.adapters.factored_sum import DEFAULT_STACK_LIMIT, FactoredSum, Leading
from flower_strategy.config_keys import Weighting


@dataclass
class _Partition:
    """Terms ``start`` to ``stop`` (exclusive) of the devices that have them."""

    start: int
    stop: int
    total: FactoredSum
    weight: float = 0.0


class RankPartitionedMean:
    r"""Mean of low-rank products: every rank-one term is averaged over the devices that have it.

    The exact mean weighs all terms of a device by its share of all examples. If few devices have a
    high rank, their high terms are divided by the weight of the many that have none, so over the
    rounds the energy concentrates in the ranks that all have. Wu, Hu, Min and Wang, "Preventing
    Rank Collapse in Federated Low-Rank Adaptation with Client Heterogeneity" (raFLoRA, arXiv
    2602.13486), divide each partition of the ranks by the weight of the devices that contribute to
    it:

    .. math:: \bar\Delta = \sum_j \frac{\sum_{i: r_i > j} n_i s_i b_{ij} a_{ij}^T}
              {\sum_{i: r_i > j} n_i}

    with :math:`b_{ij}` column j of B_i and :math:`a_{ij}` row j of A_i. Partitions are the ranges
    of j between the ranks that occur; each has its own sum and is divided at the end.

    This is not the mean of the devices' updates. A term that only one device has counts as if all
    devices had agreed on it, so strong devices and their data weigh more than their number of
    examples. The result also depends on the order of a device's terms, which are sorted by singular
    value before training but not after it. With equal ranks it is the exact mean. Choose it if a
    cluster's devices have similar data and very different ranks, and the cluster's high terms fade;
    choose ``exact`` if strong devices have different data from weak ones.

    Memory is that of one `FactoredSum` per partition.

    Parameters
    ----------
    shape : tuple[int, int]
        (out, in) of the layer's weight.
    ranks : Sequence[int] (default: ())
        Ranks that will occur. Any other rank splits a partition when it first occurs, which is
        possible only while the partition's terms are still separate.
    stack_limit : int (default: 1024)
        See `FactoredSum`.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        ranks: Sequence[int] = (),
        stack_limit: int = DEFAULT_STACK_LIMIT,
    ) -> None:
        self.shape = shape
        self._stack_limit = stack_limit
        self._partitions: list[_Partition] = []
        for rank in sorted(set(ranks)):
            self._cut(rank)

    def check(self, factors: LoraFactors) -> None:
        """Raise AdapterError if `add` cannot take these factors."""
        split = self._containing(factors.rank)
        if split is not None and not split.total.is_separate:
            known = [partition.stop for partition in self._partitions]
            raise AdapterError(
                f"Rank {factors.rank} lies within terms {split.start} to {split.stop}, which are "
                f"already summed. Name it in `ranks`; known are {known}."
            )

    def add(self, factors: LoraFactors, *, weight: float, scaling: float) -> None:
        """Fold in ``scaling * b @ a`` of a device with `weight`."""
        self.check(factors)
        self._cut(factors.rank)
        for partition in self._partitions:
            if partition.stop > factors.rank:
                break
            terms = slice(partition.start, partition.stop)
            part = LoraFactors(b=factors.b[:, terms], a=factors.a[terms])
            partition.total.add(part, weight * scaling)
            partition.weight += weight

    def merge(self, other: RankPartitionedMean) -> None:
        """Add all products of another mean of the same layer, made with the same ranks."""
        for partition in other._partitions:
            self._cut(partition.stop)
        for partition in list(self._partitions):
            other._cut(partition.stop)
        for mine, theirs in zip(self._partitions, other._partitions, strict=True):
            mine.total.merge(theirs.total, 1.0)
            mine.weight += theirs.weight

    def leading(self, rank: int) -> Leading:
        """Return the leading `rank` singular terms of the mean."""
        used = [partition for partition in self._partitions if partition.weight > 0]
        whole = FactoredSum(self.shape, stack_limit=self._stack_limit)
        for partition in used:
            whole.merge(partition.total, 1.0 / partition.weight)
        return whole.leading(rank)

    def _containing(self, rank: int) -> _Partition | None:
        """Return the partition that `rank` would split."""
        return next((p for p in self._partitions if p.start < rank < p.stop), None)

    def _cut(self, rank: int) -> None:
        """Let a partition end at `rank`."""
        split = self._containing(rank)
        if split is not None:
            low, high = split.total.split(rank - split.start)
            index = self._partitions.index(split)
            self._partitions[index : index + 1] = [
                _Partition(split.start, rank, low, split.weight),
                _Partition(rank, split.stop, high, split.weight),
            ]
            return
        end = self._partitions[-1].stop if self._partitions else 0
        if rank > end:
            empty = FactoredSum(self.shape, stack_limit=self._stack_limit)
            self._partitions.append(_Partition(end, rank, empty))


class _LayerMean(Protocol):
    """Mean of one layer's products."""

    shape: tuple[int, int]

    def check(self, factors: LoraFactors) -> None: ...

    def add(self, factors: LoraFactors, *, weight: float, scaling: float) -> None: ...

    def merge(self, other: Self) -> None: ...

    def leading(self, rank: int) -> Leading: ...


class _ExactMean:
    def __init__(self, shape: tuple[int, int], *, stack_limit: int) -> None:
        self.shape = shape
        self._total = FactoredSum(shape, stack_limit=stack_limit)
        self._weight = 0.0

    def check(self, factors: LoraFactors) -> None:
        """Accept any rank."""

    def add(self, factors: LoraFactors, *, weight: float, scaling: float) -> None:
        self._total.add(factors, weight * scaling)
        self._weight += weight

    def merge(self, other: Self) -> None:
        self._total.merge(other._total, 1.0)
        self._weight += other._weight

    def leading(self, rank: int) -> Leading:
        return self._total.leading(rank, scale=1.0 / self._weight)


@dataclass(frozen=True, eq=False)
class Aggregate:
    """The mean of a cluster's adapters, cut to one rank.

    Attributes
    ----------
    adapter : AdapterState
        The mean, scaling 1, terms ordered by singular value. A layer whose mean has a lower rank
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
    """Weighted mean of adapters, which are added as they arrive.

    Parameters
    ----------
    shapes : dict[str, tuple[int, int]]
        Layer -> (out, in); every adapter added must have exactly these layers.
    weighting : "exact" | "rank-partitioned" (default: "exact")
        The mean of the devices' updates, or that of every rank-one term over the devices that have
        it; see `RankPartitionedMean`.
    ranks : Sequence[int] (default: ())
        Ranks that devices may have; only ``rank-partitioned`` uses them. Any other rank is accepted
        as long as the terms that it splits are still separate.
    stack_limit : int (default: 1024)
        See `FactoredSum`.
    """

    def __init__(
        self,
        shapes: LayerShapes,
        *,
        weighting: Weighting = "exact",
        ranks: Sequence[int] = (),
        stack_limit: int = DEFAULT_STACK_LIMIT,
    ) -> None:
        def layer_mean(shape: tuple[int, int]) -> _LayerMean:
            if weighting == "exact":
                return _ExactMean(shape, stack_limit=stack_limit)
            if weighting == "rank-partitioned":
                return RankPartitionedMean(shape, ranks=ranks, stack_limit=stack_limit)
            raise AdapterError(
                f"The weighting is 'exact' or 'rank-partitioned', not {weighting!r}."
            )

        self._means = {name: layer_mean(shape) for name, shape in shapes.items()}
        self.total_weight = 0.0
        self.count = 0

    def add(
        self,
        adapter: AdapterState,
        *,
        weight: float,
        sent: AdapterState | None = None,
        kept: float = 1.0,
    ) -> None:
        """Fold in one adapter.

        Parameters
        ----------
        adapter : AdapterState
            The adapter.
        weight : float
            Its weight.
        sent : AdapterState, optional
            The adapter that it was trained from, same rank; needed if `kept` is below 1.
        kept : float (default: 1.0)
            Share of the update from `sent` to the adapter that counts, in [0, 1].

        Raises
        ------
        AdapterError
            Layers or shapes differ from those of the mean, the weight is not a positive number, or
            the rank splits terms that are no longer separate. Nothing is added then.
        """
        if not 0 < weight < float("inf"):
            raise AdapterError(f"The weight of an adapter is a positive number, not {weight!r}.")
        parts = [(adapter, weight * kept)] if kept > 0 else []
        if kept < 1:
            if sent is None:
                raise AdapterError(f"A share of {kept:g} of an update needs what was sent.")
            parts.append((sent, weight * (1.0 - kept)))
        for part, _ in parts:
            if part.shapes != {name: mean.shape for name, mean in self._means.items()}:
                raise AdapterError("The adapter's layers or shapes differ from the cluster's.")
            for name, factors in part.layers.items():
                self._means[name].check(factors)
        for part, share in parts:
            for name, factors in part.layers.items():
                self._means[name].add(factors, weight=share, scaling=part.scaling)
        self.total_weight += weight
        self.count += 1

    def merge(self, other: AdapterMean) -> None:
        """Add another mean with the same options."""
        for name, mean in self._means.items():
            mean.merge(other._means[name])
        self.total_weight += other.total_weight
        self.count += other.count

    def result(self, rank: int) -> Aggregate:
        """Return the mean so far, cut to `rank`.

        Raises
        ------
        AdapterError
            Nothing was added.
        """
        if not self.count:
            raise AdapterError("There is no mean of zero adapters.")
        layers, discarded = {}, {}
        total = lost = 0.0
        for name, mean in self._means.items():
            found = mean.leading(rank)
            layers[name] = found.factors if found.factors.rank else _zero(mean.shape)
            discarded[name] = found.lost / found.total if found.total > 0 else 0.0
            total, lost = total + found.total, lost + found.lost
        return Aggregate(AdapterState(layers), lost / total if total > 0 else 0.0, discarded)


def _zero(shape: tuple[int, int]) -> LoraFactors:
    return LoraFactors(b=np.zeros((shape[0], 1), np.float32), a=np.zeros((1, shape[1]), np.float32))


def truncate(adapter: AdapterState, rank: int) -> Aggregate:
    """Return the best approximation of one adapter at `rank`, and what it leaves out."""
    mean = AdapterMean(adapter.shapes)
    mean.add(adapter, weight=1.0)
    return mean.result(rank)


def combine(parts: list[tuple[float, AdapterState]], rank: int) -> Aggregate:
    """Return ``sum(weight * adapter)`` cut to a rank; weights may be negative.

    Parameters
    ----------
    parts : list[tuple[float, AdapterState]]
        Weight and adapter, at least one; all with the same layers.
    rank : int
        Rank of the result.
    """
    total = AdapterMean(parts[0][1].shapes)
    for weight, adapter in parts:
        total.add(adapter.scaled(weight), weight=1.0)
    # The mean of n adapters, scaled by n, is their sum.
    summed = total.result(rank)
    return Aggregate(
        summed.adapter.scaled(len(parts)), summed.discarded_energy, summed.discarded_by_layer
    )


def share_globally(
    means: Mapping[str, AdapterState], weights: Mapping[str, float], *, share: float, rank: int
) -> dict[str, AdapterState]:
    """Mix a share of the mean over all clusters into every cluster's mean.

    Parameters
    ----------
    means : Mapping[str, AdapterState]
        Cluster -> its mean.
    weights : Mapping[str, float]
        Cluster -> its number of examples, which is its weight in the mean over all.
    share : float
        Share of the mean over all clusters, in [0, 1].
    rank : int
        Rank of the results.
    """
    if not share or len(means) < 2:
        return dict(means)
    total = sum(weights[name] for name in means)
    overall = [(share * weights[name] / total, mean) for name, mean in means.items()]
    return {
        name: combine([(1.0 - share, mean), *overall], rank).adapter for name, mean in means.items()
    }


@dataclass(frozen=True, eq=False)
class Moved:
    """A cluster's adapter after a step with momentum.

    Attributes
    ----------
    adapter : AdapterState
        The adapter.
    velocity : AdapterState
        The velocity for the next step.
    """

    adapter: AdapterState
    velocity: AdapterState


def with_momentum(
    adapter: AdapterState,
    mean: AdapterState,
    velocity: AdapterState | None,
    *,
    momentum: float,
    rank: int,
) -> Moved:
    r"""Move a cluster's adapter towards the round's mean with momentum.

    With the updates W of the adapter and M of the mean, :math:`V \leftarrow \beta V + (M - W)`
    and :math:`W \leftarrow W + V`: Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data
    Distribution for Federated Visual Classification" (arXiv 1909.06335), applied to the updates
    instead of their factors, which differ in rank.

    Parameters
    ----------
    adapter : AdapterState
        The cluster's adapter before the round.
    mean : AdapterState
        The round's mean.
    velocity : AdapterState or None
        The velocity before the round; None stands for zero.
    momentum : float
        beta, in (0, 1).
    rank : int
        Rank of the results.
    """
    parts = [(1.0, mean), (-1.0, adapter)]
    if velocity is not None:
        parts.append((momentum, velocity))
    moved = combine(parts, rank).adapter
    if velocity is None:
        return Moved(mean, moved)
    return Moved(combine([(1.0, mean), (momentum, velocity)], rank).adapter, moved)
