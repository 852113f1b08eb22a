"""Scans what is new in a text that grows, such as a reply that is being generated.

What was found clear before need not be scanned again, but a finding may begin in old text and end
in new. So each detector says how far back it must read. It may read less than the whole, and find
more in that than in the whole: a scan of the whole follows any finding that counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from floe_plugins.caches import Recent
from floe_plugins.gate.detector import Detector, Span

BESIDE = 128
"""Characters before new text whose findings new text may make private: see `person_context`."""

# A number with spaces in it is not cut: so many characters before a beginning have no digit.
_CALM = 8
_DIGIT = re.compile(r"\d")


T = TypeVar("T")

# Texts of which something is remembered: some for each stream of a large batch.
_REMEMBERED = 4096


class Memory(Generic[T]):
    """Remembers something of texts by their hashes, and none of the texts; threads may share it."""

    def __init__(self) -> None:
        self._known: Recent[tuple[int, int], T] = Recent(_REMEMBERED)

    def of(self, text: str, find: Callable[[], T]) -> T:
        """Return what is remembered of a text, or find it and remember it."""
        known = self.get(text)
        if known is None:
            known = find()
            self.put(text, known)
        return known

    def get(self, text: str) -> T | None:
        """Return what is remembered of a text, or None."""
        return self._known.get((len(text), hash(text)))

    def put(self, text: str, known: T) -> None:
        """Remember something of a text, which is not None."""
        self._known.put((len(text), hash(text)), known)


def new_findings(detector: Detector, text: str, new_from: int) -> Sequence[Span]:
    """Return the findings of a text that its beginning does not have, and maybe others.

    Parameters
    ----------
    new_from : int
        Where the new text begins.
    """
    return asker(detector)(text, new_from)


def asker(detector: Detector) -> Callable[[str, int], Sequence[Span]]:
    """Return the function that finds what is new in a text, from the text and where that begins.

    It is the detector's method `detect_new`, if it has one. If it has an attribute `reach`, only so
    many characters before the new text are read; otherwise the whole text.
    """
    ask: Callable[[str, int], Sequence[Span]] | None = getattr(detector, "detect_new", None)
    if ask is not None:
        return ask
    reach = getattr(detector, "reach", None)

    def read(text: str, new_from: int) -> Sequence[Span]:
        return found_from(detector, text, 0 if reach is None else beginning(text, new_from - reach))

    return read


def reads_new(detector: Detector) -> bool:
    """Return whether a detector says how much of a text it must read when the text grows."""
    return any(getattr(detector, name, None) is not None for name in ("detect_new", "reach"))


def found_from(detector: Detector, text: str, begin: int) -> Sequence[Span]:
    """Return what a detector finds from a place on."""
    found = detector.detect(text[begin:])
    if not begin or not isinstance(found, Sequence):
        return found
    return [replace(span, start=span.start + begin, end=span.end + begin) for span in found]


def beginning(text: str, place: int) -> int:
    """Return where to begin to read in order to read all from a place on.

    Returns
    -------
    int
        The beginning of a word at or before the place, with no number right before it.
    """
    place = min(place, len(text))
    while place > 0:
        if text[place - 1].isspace() and _DIGIT.search(text, max(0, place - _CALM), place) is None:
            return place
        place -= 1
    return 0


def found_near(
    detector: Detector,
    text: str,
    new_from: int,
    *,
    reach: int,
    wakes: re.Pattern[str] = _DIGIT,
    within: int,
) -> Sequence[Span]:
    """Return what a detector finds in new text and near it, if that can be anything.

    Parameters
    ----------
    reach : int
        Characters before new text that may take part in a new finding.
    wakes : re.Pattern, optional
        Matches in the new text, or so many characters before it as `within` says, if there is a new
        finding; by default a digit.
    """
    if wakes.search(text, max(0, new_from - within)) is None:
        return []
    return found_from(detector, text, beginning(text, new_from - reach))
