"""A detector of badge numbers such as BDG-204817."""

import re

from floe_plugins.gate import Span

# Bounded repetitions of characters that exclude each other: such a pattern cannot backtrack.
_BADGE = re.compile(r"\bBDG-\d{6}\b")


class BadgeDetector:
    """Finds badge numbers.

    Attributes
    ----------
    name : str
        The name by which configurations choose it.
    labels : tuple of str
        What it can find; redaction writes ``<BADGE>``.
    longest : int
        The longest finding, in characters. Generated text is scanned in windows that overlap by so
        much.
    """

    name = "badge"
    labels = ("BADGE",)
    longest = 10

    def detect(self, text: str) -> list[Span]:
        """Return the badge numbers in a text."""
        return [Span(found.start(), found.end(), "BADGE") for found in _BADGE.finditer(text)]
