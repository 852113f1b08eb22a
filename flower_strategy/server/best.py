"""The best adapter of a cluster so far, by the loss on its devices' validation examples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flower_strategy.adapters.adapter import AdapterState


@dataclass(frozen=True, eq=False, kw_only=True)
class Best:
    """The best round of a cluster, and how long ago it was.

    Attributes
    ----------
    round : int
        The round after which the cluster had the adapter.
    adapter : AdapterState
        The adapter, at the server's rank.
    losses : dict[int, tuple[float, int]]
        Node -> its loss with this adapter, and the response tokens that it is measured on.
    waited : int (default: 0)
        Rounds since then that moved the cluster's adapter and were not better.
    stopped_in : int or None (default: None)
        The round in which the cluster stopped training; None while it trains.
    uncompared : int (default: 0)
        The last rounds, in a row, that no device measured which measured this adapter too.
    """

    round: int
    adapter: AdapterState
    losses: dict[int, tuple[float, int]]
    waited: int = 0
    stopped_in: int | None = None
    uncompared: int = 0

    def change(self, losses: Mapping[int, tuple[float, int]]) -> float | None:
        """Return how much higher other losses are, over the devices that measured both.

        Both means have the weights of the other losses. None stands for no such device.
        """
        both = sorted(self.losses.keys() & losses.keys())
        total = sum(losses[node][1] for node in both)
        if not total:
            return None
        rises = ((losses[node][0] - self.losses[node][0]) * losses[node][1] for node in both)
        return math.fsum(rises) / total
