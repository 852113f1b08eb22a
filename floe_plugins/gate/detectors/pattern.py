"""A detector made of one regular expression and a check of what it finds."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from floe_plugins.gate.detector import Span


@dataclass(frozen=True)
class PatternDetector:
    """Finds what a pattern matches and a check confirms.

    Parameters
    ----------
    name : str
        The detector's name.
    label : str
        The label of its spans.
    pattern : re.Pattern
        Must need linear time on any text: bounded or possessive repetitions, and a look-behind
        that lets a match begin only where a run of its characters begins.
    confirms : callable, optional
        Takes a match and tells whether it is one.
    """

    name: str
    label: str
    pattern: re.Pattern[str]
    confirms: Callable[[re.Match[str]], bool] | None = None

    @property
    def labels(self) -> Sequence[str]:
        """The one label."""
        return (self.label,)

    def detect(self, text: str) -> Sequence[Span]:
        """Return the confirmed matches."""
        return [
            Span(match.start(), match.end(), self.label)
            for match in self.pattern.finditer(text)
            if self.confirms is None or self.confirms(match)
        ]
