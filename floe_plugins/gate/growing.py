"""Scans what is new in a text that grows, such as a reply that is being generated.

What was found clear before need not be scanned again, but a finding may begin in old text and end
in new. So each detector says how far back it must read. It may read less than the whole, and find
more in that than in the whole: a scan of the whole follows any finding that counts.

Floe's own detectors also say, by `may_find`, whether new text can make a finding at all. A step of
decoding adds a few characters, and most of these can make none, so that must cost next to nothing:
what one detector asks of the end of a text, all read in one `Growing`, and `Cues` and `Words`
remember of a text where they last saw something, so that they read each character once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from floe_plugins.caches import Recent
from floe_plugins.gate.detector import Detector, Span

BESIDE = 128
"""Characters before new text whose findings new text may make private: see `person_context`."""

# A number with spaces in it is not cut: so many characters before a beginning have no digit.
_CALM = 8
_DIGIT = re.compile(r"\d")


T = TypeVar("T")

# The farthest that a digit before new text is looked for.
_DIGIT_CHARS = 256
_UP_TO_DIGIT = re.compile(r"(?s:.*)\d")
_NO_DIGIT = 1 << 30

EVERYWHERE = 1 << 30
"""Characters before new text, for what matters wherever it is."""

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


# Where `Cues` and `Words` have read to, and saw something last.
_Seen = tuple[int, int]
_NEVER = -(1 << 31)
_seen: Memory[dict[object, Any]] = Memory()


class Growing:
    """A text that grows, and what several detectors ask of its end.

    Parameters
    ----------
    new_from : int
        Where the new text begins.

    Attributes
    ----------
    old : str
        The text before the new text.
    since_digit : int
        Characters from the last digit to the new text, negative for one in it. A very large number
        if there is none in the new text and in so many characters before it as any detector reads.
    start : int
        Where the last word of the old text begins. Words have spaces or line feeds between them,
        and those after a word belong to it.
    end : int
        Where the last word of the text begins.
    known : dict
        What is remembered of the old text, by who remembers it. What is put there is remembered of
        the text.
    """

    __slots__ = ("end", "known", "new_from", "old", "since_digit", "start", "text")

    def __init__(self, text: str, new_from: int) -> None:
        self.text, self.new_from = text, new_from
        self.old = text[:new_from]
        digits = _UP_TO_DIGIT.match(text, max(0, new_from - _DIGIT_CHARS))
        self.since_digit = _NO_DIGIT if digits is None else new_from - digits.end() + 1
        self.start = _last_word(text, new_from)
        self.end = _last_word(text, len(text))
        known = _seen.get(self.old)
        self.known: dict[object, Any] = {} if known is None else known.copy()
        _seen.put(text, self.known)


def _last_word(text: str, place: int) -> int:
    """Return where the last word before a place begins."""
    while place > 0 and text[place - 1].isspace():
        place -= 1
    return max(text.rfind(" ", 0, place), text.rfind("\n", 0, place)) + 1


class Cues:
    """Tells whether a text that grows has something in new text, or soon before it.

    Parameters
    ----------
    find : callable
        Returns something true for a piece of text that has it. A piece may begin within a word.
    longest : int
        The most characters of what it finds, with those beside it that it reads.
    within : int
        The most characters before new text that matter.
    lower : bool, optional
        Whether pieces are in lower case.
    """

    def __init__(
        self, find: Callable[[str], object], *, longest: int, within: int, lower: bool = True
    ) -> None:
        self.find, self._longest, self._within, self._lower = find, longest, within, lower

    def near(self, grown: Growing, within: int | None = None, *, finds: bool = True) -> bool:
        """Return whether it is there; also for a while after it no longer is.

        Parameters
        ----------
        within : int, optional
            Fewer characters before new text than all that matter.
        finds : bool, optional
            False if it is known that there is none in the new text with what is before it.
        """
        text, length = grown.text, len(grown.text)
        first = grown.new_from - (self._within if within is None else within)
        read, last = grown.known.get(self, (grown.new_from - self._within, _NEVER))
        if read < length:
            piece = text[max(0, read - self._longest) :]
            # What was not asked about earlier steps is read now.
            if (finds or read < grown.new_from) and self.find(
                piece.lower() if self._lower else piece
            ):
                last = length
            grown.known[self] = (length, last)
        return bool(last >= first)


class Words:
    """Tells whether a text that grows has certain words in new text, or soon before it.

    Parameters
    ----------
    find : callable
        Returns something true for whole words, in lower case, one of which is one of them.
    within : int
        Characters before new text that matter.
    """

    def __init__(self, find: Callable[[str], object], *, within: int) -> None:
        self.find, self._within = find, within

    def near(self, grown: Growing) -> bool:
        """Return whether one of the words is there; also for a while after it no longer is."""
        text, end = grown.text, grown.end
        first = grown.new_from - self._within
        read, last = grown.known.get(self) or (_last_word(text, max(0, first)), _NEVER)
        if read < end:
            if self.find(text[read:end].lower()):
                last = end
            grown.known[self] = (end, last)
        # The last word may still grow to another one.
        return last >= first or bool(self.find(text[end:].lower()))


LONG_WORD = Cues(re.compile(r"[a-z0-9+/_-]{14}").search, longest=14, within=128)
"""A word that may be a key, or encoded."""


def new_findings(detector: Detector, text: str, new_from: int) -> Sequence[Span]:
    """Return the findings of a text that its beginning does not have, and maybe others.

    Parameters
    ----------
    new_from : int
        Where the new text begins.
    """
    may_find = finder(detector)
    if may_find is not None and not may_find(Growing(text, new_from)):
        return ()
    return asker(detector)(text, new_from)


def finder(detector: Detector) -> Callable[[Growing], bool] | None:
    """Return the detector's method `may_find`, or None if it has none.

    It returns whether new text may make a finding. It must be fast, and must not raise.
    """
    return getattr(detector, "may_find", None)


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
