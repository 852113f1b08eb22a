r"""Mean of low-rank products in which every rank-one term is averaged over those that have it.

The exact mean weighs all terms of a device by its share of all examples. Where few devices have a
high rank, their high terms are divided by the weight of the many that have none, so over the
rounds the energy gathers in the ranks that everyone has. Wu, Hu, Min and Wang, "Preventing Rank
Collapse in Federated Low-Rank Adaptation with Client Heterogeneity" (raFLoRA, arXiv 2602.13486),
divide each partition of the ranks by the weight of the devices that contribute to it:

.. math:: \bar\Delta = \sum_j \frac{\sum_{i: r_i > j} n_i s_i b_{ij} a_{ij}^T}
          {\sum_{i: r_i > j} n_i}

with :math:`b_{ij}` column j of B_i and :math:`a_{ij}` row j of A_i. Partitions are the ranges of j
between the ranks that occur; each has a sum of its own and is divided at the end.

What it costs: this is not the mean of the devices' updates. A term that only one device has counts
as though all devices had agreed on it, so strong devices, and their data, weigh more than their
examples; and the result depends on the order of a device's terms, which training starts sorted by
singular value but does not keep so. With equal ranks it is the exact mean. Choose it where a
cluster's devices have alike data and ranks far apart, and the bank's high terms fade; choose
``exact`` where strong devices have other data than weak ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flower_strategy.adapters.adapter import AdapterError, LoraFactors
from flower_strategy.adapters.factored_sum import DEFAULT_STACK_LIMIT, FactoredSum, Leading


@dataclass
class _Partition:
    """Terms ``start`` to ``stop`` (exclusive) of the devices that have them."""

    start: int
    stop: int
    total: FactoredSum
    weight: float = 0.0


class RankPartitionedMean:
    """Rank-partitioned mean of one layer, folded in one product at a time.

    Memory is that of one `FactoredSum` per partition.

    Parameters
    ----------
    shape : tuple[int, int]
        (out, in) of the layer's weight.
    ranks : Sequence[int] (default: ())
        Ranks that will occur. One that is not named here splits a partition when it first comes,
        which takes that the partition's terms are still held apart.
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
        """Raise AdapterError where `add` could not take these factors."""
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
