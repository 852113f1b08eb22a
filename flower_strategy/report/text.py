"""Positions, ticks and numbers as text, for charts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A line from values to positions.

    Attributes
    ----------
    low, high : float
        The values at the ends, ``low < high``.
    start, end : float
        Their positions.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the position of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def ticks(values: Iterable[float], *, count: int = 5, from_zero: bool = False) -> list[float]:
    """Return round values, evenly spaced, from at most the least value to at least the greatest.

    Steps are 1, 2 or 5 times a power of ten.

    Parameters
    ----------
    values : Iterable[float]
        What the axis has to hold; none gives an axis from 0 to 1.
    count : int (default: 5)
        About how many.
    from_zero : bool (default: False)
        Whether the axis begins at 0 (or at the least value, where that is negative).
    """
    known = list(values)
    low, high = min(known, default=0.0), max(known, default=1.0)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-300):
        margin = abs(high) / 2 or 0.5
        low, high = (0.0, high + margin) if from_zero else (low - margin, high + margin)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [index * step for index in range(first, last + 1)]


def thinned(labels: Sequence[int], *, most: int) -> list[int]:
    """Return at most about `most` of ascending labels, evenly spaced from the first."""
    every = max(1, math.ceil(len(labels) / most))
    return list(labels[::every])


def number_text(value: float | None, digits: int = 3) -> str:
    """Return a number with that many significant digits, or a dash where there is none."""
    if value is None:
        return "–"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}".replace("-", "−").replace("e−0", "e−").replace("e+0", "e")
    places = 0 if value == 0 else max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def percent_text(value: float | None) -> str:
    """Return a share as per cent."""
    return "–" if value is None else f"{number_text(100 * value)} %"


def seconds_text(value: float | None) -> str:
    """Return a duration."""
    if value is None:
        return "–"
    if value >= 7200:
        return f"{number_text(value / 3600)} h"
    if value >= 120:
        return f"{number_text(value / 60)} min"
    return f"{number_text(value)} s" if value >= 0.1 or value == 0 else f"{value * 1e3:.3g} ms"


def bytes_text(value: float | None) -> str:
    """Return a number of bytes, in units of 1,000."""
    if value is None:
        return "–"
    unit = 0
    while value >= 999.5 and unit < 4:
        value, unit = value / 1000, unit + 1
    return f"{number_text(value)} {('B', 'kB', 'MB', 'GB', 'TB')[unit]}"
