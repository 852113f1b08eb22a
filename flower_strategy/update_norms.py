"""How long a reply's update is, and whether that is far outside what the round's others did."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence

import numpy as np

from flower_strategy.adapter import AdapterState

ENOUGH = 3
"""Updates from which there is a distribution to be outside of."""


def update_norm(sent: AdapterState, trained: AdapterState) -> float:
    r"""Return the Frobenius norm of what training changed, over all layers.

    With :math:`P = [s B, -s_0 B_0]` and :math:`Q = [A; A_0]` a layer's change is PQ, and
    :math:`\|PQ\|_F^2 = \langle P^T P, Q Q^T \rangle`, so no weight matrix is formed.

    Parameters
    ----------
    sent : AdapterState
        The adapter that the device got.
    trained : AdapterState
        The adapter that came back, same layers.
    """
    total = 0.0
    for name, after in trained.layers.items():
        before = sent.layers[name]
        p = np.hstack([trained.scaling * after.b, -sent.scaling * before.b]).astype(np.float64)
        q = np.vstack([after.a, before.a]).astype(np.float64)
        total += max(0.0, float(np.sum((p.T @ p) * (q @ q.T))))
    return math.sqrt(total)


class NormJudge:
    """Tells which updates are far longer than the round's others.

    The measure is the median of the lengths seen in this round and accepted in the last one; a
    few false ones among many do not move it.

    Parameters
    ----------
    limit : float
        How many times the median an update may be; 0 accepts every length.
    last_round : Sequence[float]
        The lengths accepted in the last round.
    """

    def __init__(self, *, limit: float, last_round: Sequence[float] = ()) -> None:
        self._limit = limit
        # Kept sorted: the median is asked for with every reply.
        self._lengths = sorted(length for length in last_round if length > 0)

    @property
    def ready(self) -> bool:
        """Whether enough lengths are known to judge by."""
        return not self._limit or len(self._lengths) >= ENOUGH

    def note(self, length: float) -> None:
        """Add a length of this round; 0, a device that learned nothing, tells nothing."""
        if length > 0:
            insort(self._lengths, length)

    def complaint(self, length: float) -> str | None:
        """Return why an update is refused, as one phrase, or None."""
        if not self._limit or not self._lengths:
            return None
        # The lower of two in the middle.
        usual = self._lengths[(len(self._lengths) - 1) // 2]
        if length <= self._limit * usual:
            return None
        return (
            f"its update has norm {length:.3g}, {length / usual:.0f} times the round's median "
            f"{usual:.3g}; norm-limit is {self._limit:g}."
        )
