"""Checks of single values, without imports that would slow down their users."""

from __future__ import annotations

import math
from typing import TypeGuard


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether `value` is a finite number within a float's range; booleans are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def is_integer(value: object, *, least: int, most: float = math.inf) -> TypeGuard[int]:
    """Return whether `value` is an integer in a range, both ends included."""
    return type(value) is int and least <= value <= most
