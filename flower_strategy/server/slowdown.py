"""How much slower than profiled a device is, corrected after every round, without flapping."""

from __future__ import annotations

import math
from dataclasses import dataclass

BAND = 1.25
"""Observations within this factor of the present pace change nothing."""

AT_ONCE = 2.0
"""A round that is this many times slower than the pace counts at once."""

_CONFIRMATIONS = 2
_LIMIT = 1000.0


@dataclass(frozen=True)
class Pace:
    """The factor by which a device's training takes longer than its profile says.

    A rank follows from the pace, and a rank that changes every round helps nobody. So the pace
    has a dead band: it moves only when two rounds in a row lie outside of it on the same side, to
    their geometric mean, and then the band moves along. A round that takes twice as long moves it
    at once, since the next one would miss its deadline. Within a tenth of 1 the profile is taken
    at its word, so a device that recovers gets its rank back.

    Attributes
    ----------
    factor : float (default: 1.0)
        The pace that ranks are chosen by.
    outside : tuple[float, ...] (default: ())
        The ratios of the last rounds that lay outside the band, on one side of it.
    """

    factor: float = 1.0
    outside: tuple[float, ...] = ()

    def observed(self, ratio: float) -> Pace:
        """Return the pace after a round whose training took `ratio` times what was profiled."""
        ratio = min(max(ratio, 1.0 / _LIMIT), _LIMIT)
        if ratio >= AT_ONCE * self.factor:
            return Pace(ratio)
        if self.factor / BAND <= ratio <= self.factor * BAND:
            return Pace(self.factor)
        same_side = self.outside and (self.outside[-1] > self.factor) == (ratio > self.factor)
        outside = (*self.outside, ratio) if same_side else (ratio,)
        if len(outside) < _CONFIRMATIONS:
            return Pace(self.factor, outside)
        factor = math.exp(math.fsum(map(math.log, outside)) / len(outside))
        return Pace(1.0 if 1 / 1.1 < factor < 1.1 else factor)

    def late(self) -> Pace:
        """Return the pace after a round whose reply came too late to be seen."""
        return Pace(min(AT_ONCE * self.factor, _LIMIT))
