"""Checks of single values; imports nothing, so that whoever needs only these stays light."""

from __future__ import annotations

import math
from typing import TypeGuard


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell a number that a finite float holds from the rest; JSON's true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def is_integer(value: object, *, least: int, most: float = math.inf) -> TypeGuard[int]:
    """Return whether `value` is an integer in a range, both ends included."""
    return type(value) is int and least <= value <= most
