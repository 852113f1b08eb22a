"""What `floe-llm doctor` says: one line a check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a check came out."""

    GREEN = "green"
    RED = "red"
    UNKNOWN = "unknown"
    """Not installed, not configured, or the other side does not say."""


@dataclass(frozen=True)
class Line:
    """One check.

    Attributes
    ----------
    check : str
        What was looked at.
    status : Status
    found : str
        What it is like.
    advice : str
        What to do, where it is not green; else empty.
    """

    check: str
    status: Status
    found: str
    advice: str = ""


def green(check: str, found: str) -> Line:
    """Return a line that is as it should be."""
    return Line(check, Status.GREEN, found)


def red(check: str, found: str, advice: str) -> Line:
    """Return a line that needs something done."""
    return Line(check, Status.RED, found, advice)


def unknown(check: str, found: str, advice: str = "") -> Line:
    """Return a line that could not be looked at."""
    return Line(check, Status.UNKNOWN, found, advice)
