"""A detector with one regular expression and a check of its matches."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from floe_plugins.gate.detector import Span
from floe_plugins.gate.growing import Growing


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
    digits : bool, optional
        Whether a digit within that reach, or in the new text, is needed for a new finding, unless
        `wakes` matches there.
    wakes : re.Pattern, optional
        Matches there if there is a new finding.
    """

    name: str
    label: str
    pattern: re.Pattern[str]
    confirms: Callable[[re.Match[str]], bool] | None = None
    needs: str = ""
    reach: int = 128
    digits: bool = False
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

    def may_find(self, grown: Growing) -> bool:
        """Return whether new text may make a finding."""
        if self.needs not in grown.text:
            return False
        if self.digits and grown.since_digit <= self.reach:
            return True
        if self.wakes is None:
            return not self.digits
        return self.wakes.search(grown.text, max(0, grown.new_from - self.reach)) is not None
