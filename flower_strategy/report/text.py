"""Numbers as text, as the report's tables and tooltips show them."""

from __future__ import annotations

import math


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
