r"""What is done to a cluster's adapter beyond the mean: a share of all clusters', and momentum.

Both are sums of adapters, so they are exact but for the cut back to the banks' rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.adapters.mean import AdapterMean, Aggregate


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
    # The mean of n adapters, n times as long, is their sum.
    summed = total.result(rank)
    return Aggregate(
        summed.adapter.scaled(len(parts)), summed.discarded_energy, summed.discarded_by_layer
    )


def share_globally(
    means: Mapping[str, AdapterState], weights: Mapping[str, float], *, share: float, rank: int
) -> dict[str, AdapterState]:
    """Return every cluster's mean with a share of the mean over all clusters in it.

    Parameters
    ----------
    means : Mapping[str, AdapterState]
        Cluster -> its mean.
    weights : Mapping[str, float]
        Cluster -> its examples, its weight in the mean over all.
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
    bank : AdapterState
        The adapter.
    velocity : AdapterState
        What the next step goes on with.
    """

    bank: AdapterState
    velocity: AdapterState


def with_momentum(
    bank: AdapterState,
    mean: AdapterState,
    velocity: AdapterState | None,
    *,
    momentum: float,
    rank: int,
) -> Moved:
    r"""Move a cluster's adapter towards the round's mean with momentum.

    With the weight updates W of the bank and M of the mean, :math:`V \leftarrow \beta V + (M - W)`
    and :math:`W \leftarrow W + V`: Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data
    Distribution for Federated Visual Classification" (arXiv 1909.06335), on the updates instead of
    their factors, which differ in rank.

    Parameters
    ----------
    bank : AdapterState
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
    parts = [(1.0, mean), (-1.0, bank)]
    if velocity is not None:
        parts.append((momentum, velocity))
    moved = combine(parts, rank).adapter
    if velocity is None:
        return Moved(mean, moved)
    return Moved(combine([(1.0, mean), (momentum, velocity)], rank).adapter, moved)
