"""What the learned detector reads of a text as a whole, kept while the text grows.

The language of a text and its use of capitals change the scores of all of its words. While they
stay, new text changes the scores beside it only.
"""

from __future__ import annotations

from typing import NamedTuple

from floe_plugins.gate.detectors.learned.domain import SAMPLE, counted, spoken
from floe_plugins.gate.detectors.learned.features import shape, tokens, use_of_capitals
from floe_plugins.gate.growing import Memory

#: More words are scored in several parts, each with a use of capitals of its own.
_MOST_WORDS = 4096


class Whole(NamedTuple):
    """What is the same for all words of a text.

    Attributes
    ----------
    language : str
        By its function words; empty if it has none.
    capitals : int
        See `features.use_of_capitals`.
    """

    language: str
    capitals: int


class _Known(NamedTuple):
    """A text up to its last word, which may still grow, and what the whole is.

    `counts` are function words of each language, in one number; `shapes` are words in lower case,
    with a capital, and of capitals only.
    """

    place: int
    words: int
    counts: int
    shapes: tuple[int, int, int]
    whole: Whole


_NOTHING = _Known(0, 0, 0, (0, 0, 0), Whole("", 0))


class Growth:
    """Tells whether texts stay what they are while they grow."""

    def __init__(self) -> None:
        self._known: Memory[_Known] = Memory()

    def unchanged(self, text: str, old: str) -> Whole | None:
        """Return what a text is as a whole if its beginning was the same; otherwise None.

        Parameters
        ----------
        old : str
            The beginning.
        """
        before = self._known.of(old, lambda: _grown(old, _NOTHING))
        after = self._known.of(text, lambda: _grown(text, before))
        same = after.whole == before.whole and after.whole.language
        return after.whole if same and after.words < _MOST_WORDS else None


def _grown(text: str, known: _Known) -> _Known:
    """Return what is known of a text from what is known of its beginning."""
    words, starts = tokens(text[known.place :])
    if not words:
        return known
    *done, last = words
    count = known.words + len(done)
    counts = known.counts + counted(done[: max(0, SAMPLE - known.words)])
    shapes = list(map(shape, done))
    lower, title, upper = (known.shapes[which] + shapes.count(which + 1) for which in range(3))
    ending = shape(last)
    whole = Whole(
        spoken(counts + counted([last][: max(0, SAMPLE - count)])),
        use_of_capitals(lower + (ending == 1), title + (ending == 2), upper + (ending == 3)),
    )
    return _Known(known.place + starts[-1], count, counts, (lower, title, upper), whole)
