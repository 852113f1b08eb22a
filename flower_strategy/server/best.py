"""The best adapter of a cluster so far, by the loss on its devices' validation examples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flower_strategy.adapters.adapter import AdapterState

_LARGEST_CHANGE = 1.0
"""Most nats by which one device's loss can rise or fall: a device that is broken, or lies, must not
decide for the others. Where a round changes a loss by more, its direction is what counts."""

_HEAVIEST = 4
"""How many times the median tokens of the devices one of them weighs at most: it names them itself.
"""


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

        A device weighs by the tokens of its other loss, at most four times as much as the median
        one, and changes by one nat at most. None stands for no device that measured both.
        """
        both = [node for node in sorted(self.losses.keys() & losses.keys()) if losses[node][1]]
        if not both:
            return None
        most = _HEAVIEST * float(np.median([losses[node][1] for node in both]))
        weights = [min(losses[node][1], most) for node in both]
        rises = (
            weight
            * min(max(losses[node][0] - self.losses[node][0], -_LARGEST_CHANGE), _LARGEST_CHANGE)
            for node, weight in zip(both, weights, strict=True)
        )
        return math.fsum(rises) / math.fsum(weights)
