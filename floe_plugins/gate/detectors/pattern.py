"""A detector with one regular expression and a check of its matches."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from floe_plugins.gate.detector import Span
from floe_plugins.gate.growing import beginning, found_from, found_near


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
    reach : int, optional
        Characters before new text that may take part in a new finding. Words are read whole.
    wakes : re.Pattern, optional
        Matches within that reach, or in the new text, if there is a new finding.
    """

    name: str
    label: str
    pattern: re.Pattern[str]
    confirms: Callable[[re.Match[str]], bool] | None = None
    needs: str = ""
    reach: int = 128
    wakes: re.Pattern[str] | None = None

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

    def detect_new(self, text: str, new_from: int) -> Sequence[Span]:
        """Return the confirmed matches of which new text is a part, and maybe others."""
        if self.needs not in text:
            return []
        if self.wakes is None:
            return found_from(self, text, beginning(text, new_from - self.reach))
        return found_near(
            self, text, new_from, reach=self.reach, wakes=self.wakes, within=self.reach
        )
