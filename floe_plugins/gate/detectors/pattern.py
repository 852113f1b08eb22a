"""A detector with one regular expression and a check of its matches."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from floe_plugins.gate.detector import Span


@dataclass(frozen=True)
class PatternDetector:
    """Finds what a pattern matches and a check confirms.

    Parameters
    ----------
    pattern : re.Pattern
        Must take linear time on any text: bounded or possessive repetitions, and a look-behind
        that lets a match begin only where a run of its characters begins.
    confirms : callable, optional
        Returns whether a match counts.
    needs : str, optional
        A string that every text with a match holds; other texts are not searched.
    """

    name: str
    label: str
    pattern: re.Pattern[str]
    confirms: Callable[[re.Match[str]], bool] | None = None
    needs: str = ""

    @property
    def labels(self) -> Sequence[str]:
        """The one label."""
        return (self.label,)

    def detect(self, text: str) -> Sequence[Span]:
        """Return the confirmed matches."""
        if self.needs not in text:
            return []
        return [
            Span(match.start(), match.end(), self.label)
            for match in self.pattern.finditer(text)
            if self.confirms is None or self.confirms(match)
        ]
