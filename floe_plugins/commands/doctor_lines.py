"""The report of `floe-llm doctor`: one line per check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """The result of a check."""

    GREEN = "green"
    RED = "red"
    UNKNOWN = "unknown"
    """Not installed, not configured, or not reported by the other side."""


@dataclass(frozen=True)
class Line:
    """The result of one check, as a line of the report.

    Attributes
    ----------
    check : str
        What was checked.
    found : str
        What was found.
    advice : str
        What to do if it is not green; else empty.
    """

    check: str
    status: Status
    found: str
    advice: str = ""


def green(check: str, found: str) -> Line:
    """Return a line for a check that passes."""
    return Line(check, Status.GREEN, found)


def red(check: str, found: str, advice: str) -> Line:
    """Return a line for a check that fails."""
    return Line(check, Status.RED, found, advice)


def unknown(check: str, found: str, advice: str = "") -> Line:
    """Return a line for a check that could not be made."""
    return Line(check, Status.UNKNOWN, found, advice)
