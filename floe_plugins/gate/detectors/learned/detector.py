"""Finds people, places, addresses and organisations by a table of learned weights."""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.learned.domain import (
    TRAINED,
    comment_start,
    is_code,
    is_machine,
    language,
)
from floe_plugins.gate.detectors.learned.words import (
    DETERMINERS,
    EPONYM_NOUNS,
    NEVER,
    NEVER_BY_NUMBER,
    ORDINARY,
    PLACES,
    STREET,
    TITLES,
)
from floe_plugins.gate.growing import BESIDE, Growing, Memory, beginning

if TYPE_CHECKING:
    from floe_plugins.gate.detectors.learned.growth import Growth, Whole
    from floe_plugins.gate.detectors.learned.model import Model, Scores

MODEL = Path(__file__).with_name("model.npz")

# Words scored at once, which bounds the memory; neighbours across the cut are included.
_WORDS = 4096
_SEEN = 2
# A word belongs to a finding from this score on, if another word of the finding has a better one.
_WORD_SCORE = 0.03
# Of longer lines the surroundings are read; and longer runs of characters no names.
_LINE, _RUN = 160, 60
# Before new text: a finding, and the line that it is in.
_REACH = 256
# Before new text: the words whose neighbours it may change, and more.
_NEAR = 64
# Characters between words of one finding, at most.
_GAP = 20


@dataclass(frozen=True)
class Thresholds:
    """From which score on a finding counts, by where it is.

    Attributes
    ----------
    prose : float
        In English, with a capital.
    lower : float
        In lower case, where a name shows by its neighbours only.
    other_language : float
        In a language other than English that the training texts have.
    code : float
        In a comment or a string of several words; nothing counts elsewhere in a line of code.
    address : float
        At least this for an ``ADDRESS``, wherever it is.
    """

    prose: float = 0.05
    lower: float = 0.1
    other_language: float = 0.45
    code: float = 0.6
    address: float = 0.15


class LearnedDetector:
    """Finds names of people, places, streets and organisations, which have no form of their own.

    A linear model scores every word by the word itself, its spelling, lists of names and of English
    words, and its neighbours. It is trained from generated texts; see `tools.learned_detector`. It
    is silent in languages that it was not trained for, in code, and in hashes and identifiers. The
    first text, or `load`, reads the model.

    Parameters
    ----------
    thresholds : Thresholds, optional
        From which score on a finding counts.
    """

    name = "learned"
    labels: Sequence[str] = ("PERSON", "LOCATION", "ADDRESS", "ORGANIZATION")

    def __init__(self, path: Path = MODEL, *, thresholds: Thresholds | None = None) -> None:
        self._path = path
        self._thresholds = thresholds or Thresholds()
        self._model: Model | None = None
        self._lock = threading.Lock()
        self._growth: Growth | None = None
        # From which place on no word of a text is private.
        self._calm: Memory[int] = Memory()

    def load(self) -> Model:
        """Read the model, unless it is already loaded.

        Raises
        ------
        OSError
            The file cannot be read.
        ValueError
            It holds no model of this version.
        """
        if self._model is None:
            from floe_plugins.gate.detectors.learned.model import Model

            self._model = Model.load(self._path)
        return self._model

    def detect(self, text: str) -> Sequence[Span]:
        """Return the private stretches of a text, in order.

        The score of a span is half of what the class of its best word has before "nothing", at
        most 1.
        """
        return self._judged(text, None, *self._scored(text, None))

    def detect_new(self, text: str, new_from: int) -> Sequence[Span]:
        """Return the findings of which new text is a part, and maybe others.

        New text may change the language, or the use of capitals, that all words are read by. Then
        the whole text is read.
        """
        old = text[:new_from]
        whole = self._whole_of(text, old)
        if whole is None:
            return self.detect(text)
        begin = beginning(text, new_from - BESIDE - _REACH)
        calm = self._calm.get(old)
        if calm is not None and calm <= begin and self._stays_calm(text, new_from, whole):
            self._calm.put(text, calm)
            return []
        part = text[begin:]
        scored = self._scored(part, whole if begin else None)
        if begin and not scored[2]:
            self._calm.put(text, begin)
        found = self._judged(part, whole if begin else None, *scored)
        return [replace(span, start=span.start + begin, end=span.end + begin) for span in found]

    def stays(self, grown: Growing) -> bool:
        """Return whether new text changes findings beside it only."""
        return self._whole_of(grown.text, grown.old) is not None

    def _whole_of(self, text: str, old: str) -> Whole | None:
        with self._lock:
            if self._growth is None:
                from floe_plugins.gate.detectors.learned.growth import Growth

                self._growth = Growth()
            return self._growth.unchanged(text, old)

    def _stays_calm(self, text: str, new_from: int, whole: Whole) -> bool:
        """Return whether new text makes no word private, where none near it was before.

        A score depends on the words beside it only, and on what is the same for all words.
        """
        from floe_plugins.gate.detectors.learned.features import tokens

        begin = beginning(text, new_from - _NEAR)
        with self._lock:
            words, starts = tokens(text[begin:])
            # The last word may have grown.
            first = bisect_left(starts, new_from - begin) - 1 - _SEEN
            if first <= _SEEN:
                return False
            scores = self.load().scores(words[first - _SEEN :], capitals=whole.capitals)
        return bool(_lead(scores)[_SEEN:].max() <= _WORD_SCORE)

    def _scored(
        self, text: str, whole: Whole | None
    ) -> tuple[list[str], list[int], dict[int, tuple[str, float]]]:
        """Return the words of a text, or of a part of one of which is said what it is.

        Returns
        -------
        words : list of str
        starts : list of int
            Where they begin.
        scored : dict of int to tuple
            The private ones' numbers, labels and scores.
        """
        from floe_plugins.gate.detectors.learned.features import tokens

        with self._lock:
            words, starts = tokens(text)
            capitals = None if whole is None else whole.capitals
            return words, starts, self._scores_of(words, self.load(), capitals)

    def _judged(
        self,
        text: str,
        whole: Whole | None,
        words: Sequence[str],
        starts: Sequence[int],
        scored: Mapping[int, tuple[str, float]],
    ) -> list[Span]:
        """Return the findings that count; the parameters are those and the result of `_scored`."""
        if not scored:
            return []
        spoken = language(words) if whole is None else whole.language
        if spoken not in TRAINED:
            return []
        judge = _Judge(text, spoken, self._thresholds, whole=whole is None)
        found = (_named(text, span) for span in _joined(text, words, starts, scored))
        return [_whole(text, span) for span in found if judge.counts(span)]

    def _scores_of(
        self, words: Sequence[str], model: Model, capitals: int | None = None
    ) -> dict[int, tuple[str, float]]:
        """Return labels and scores of the private words, by their numbers, ascending."""
        found: dict[int, tuple[str, float]] = {}
        for start in range(0, len(words), _WORDS):
            first = max(0, start - _SEEN)
            scores = model.scores(words[first : start + _WORDS + _SEEN], capitals=capitals)
            scores = scores[start - first :][:_WORDS]
            lead = _lead(scores)
            private = (lead > _WORD_SCORE).nonzero()[0]
            best = scores[private, 1:].argmax(axis=1)
            leads = lead[private].clip(0, 1).tolist()
            for number, which, score in zip(private.tolist(), best.tolist(), leads, strict=True):
                found[start + number] = (self.labels[which], score)
        return found


def _lead(scores: Scores) -> Scores:
    """Return half of what the best class of each word has before "nothing"."""
    lead: Scores = (scores[:, 1:].max(axis=1) - scores[:, 0]) / 2
    return lead


def _joined(
    text: str,
    words: Sequence[str],
    starts: Sequence[int],
    scored: Mapping[int, tuple[str, float]],
) -> Iterator[Span]:
    """Make one finding of neighbours with the same label."""
    begin = end = -1
    label, best = "", 0.0
    for number, (other, score) in scored.items():
        start = starts[number]
        if other == label and _belong_together(text, end, start, label):
            best = max(best, score)
        else:
            if label:
                yield Span(begin, end, label, best)
            begin, label, best = start, other, score
        end = start + len(words[number])
    if label:
        yield Span(begin, end, label, best)


def _belong_together(text: str, end: int, start: int, label: str) -> bool:
    """Return whether nothing separates two stretches of a label."""
    if start - end > _GAP:
        return False
    if label == "ADDRESS":
        return _WITHIN_ADDRESS.fullmatch(text, end, start) is not None
    return not text[end:start].strip()


_LETTERS = re.compile(r"[^\W\d_]+")
_AFTER = re.compile(r"(?:['’]s)?[ -]([^\W\d_]+)")
_BEFORE = re.compile(r"([^\W\d_]+)\.?[ ]$")
_NUMBER_AFTER = re.compile(r"[\W_]{1,2}\d")
_NUMBER_BEFORE = re.compile(r"\d[\W_]{0,3}$")
# What may stand between the parts of an address.
_WITHIN_ADDRESS = re.compile(r"[\s,/-]*(?:[^\W\d_]{1,12}\.?)?[\s,/-]*")


class _Judge:
    """Says which findings of one text count.

    Parameters
    ----------
    text : str
        The text.
    spoken : str
        Its language as a whole.
    thresholds : Thresholds
        From which score on a finding counts.
    whole : bool
        Whether the text is all there is, and not a part.
    """

    def __init__(
        self, text: str, spoken: str, thresholds: Thresholds, *, whole: bool = True
    ) -> None:
        self._text = text
        self._is_whole = whole
        self._spoken = spoken
        self._thresholds = thresholds
        # The line that was asked for last: findings come in order.
        self._line = (0, -1)
        self._line_language = spoken
        self._line_is_code = False

    def counts(self, span: Span) -> bool:
        """Return whether a finding counts."""
        stretch = self._text[span.start : span.end]
        if not _tells(stretch, span.label) or self._is_ordinary(span, stretch):
            return False
        self._read_line(span)
        if self._line_language not in TRAINED:
            return False
        least = self._thresholds.prose
        if self._line_is_code:
            if not self._is_said_in_code(span, stretch):
                return False
            least = self._thresholds.code
        elif self._line_language != "en":
            leading = _BEFORE.search(self._text, max(0, span.start - 12), span.start)
            if leading and leading[1].lower() in DETERMINERS and span.label == "PERSON":
                # "Über den Herbst": nouns have capitals in German, and names no article.
                return False
            if ORDINARY[self._line_language].issuperset(_LETTERS.findall(stretch.lower())):
                return False
            least = self._thresholds.other_language
        elif stretch.islower():
            least = self._thresholds.lower
        if span.label == "ADDRESS":
            least = max(least, self._thresholds.address)
        return span.score >= least

    def _read_line(self, span: Span) -> None:
        first, last = self._line
        if first <= span.start <= last:
            return
        text = self._text
        first = text.rfind("\n", max(0, span.start - _LINE), span.start) + 1
        first = first or max(0, span.start - _LINE)
        last = text.find("\n", span.start, span.start + _LINE)
        last = last if last >= 0 else min(len(text), span.start + _LINE)
        line = text[first:last]
        self._line = first, last
        self._line_is_code = is_code(line)
        self._line_language = (
            self._spoken
            if self._is_whole and len(line) == len(text)
            else language(_LETTERS.findall(line), default=self._spoken)
        )

    def _is_said_in_code(self, span: Span, stretch: str) -> bool:
        """Return whether a stretch of a line of code is part of its comment or of a string."""
        first, last = self._line
        if " " not in stretch or stretch.islower():
            return False
        line = self._text[first:last]
        if span.start - first >= comment_start(line):
            return True
        before, after = line[: span.start - first], line[span.end - first :]
        return any(before.count(mark) % 2 and mark in after for mark in "\"'`")

    def _is_ordinary(self, span: Span, stretch: str) -> bool:
        """Return whether a stretch is a word or a value that is nobody's and no place's."""
        text = self._text
        if (span.label != "ADDRESS" or " " not in stretch) and not _between_spaces(text, span):
            # The run of characters without spaces that the stretch stands in.
            before = text[max(0, span.start - _RUN) : span.start]
            after = text[span.end : span.end + _RUN]
            left = before.split()[-1] if before and not before[-1].isspace() else ""
            right = after.split()[0] if after and not after[0].isspace() else ""
            first = stretch.split(None, 1)[0]
            run = left + first + right * (first == stretch)
            if len(run) > len(first) and is_machine(run):
                return True
        if span.label == "ADDRESS":
            return False
        lower = stretch.lower()
        if lower in NEVER or lower in PLACES:
            return True
        if lower in NEVER_BY_NUMBER and (
            _NUMBER_AFTER.match(text, span.end)
            or _NUMBER_BEFORE.search(text, max(0, span.start - 6), span.start)
        ):
            return True
        following = _AFTER.match(text, span.end)
        if span.label == "PERSON" and following and following[1] in EPONYM_NOUNS:
            leading = _BEFORE.search(text, max(0, span.start - 12), span.start)
            return not (leading and leading[1].lower() in TITLES)
        return False


def _between_spaces(text: str, span: Span) -> bool:
    start, end = span.start, span.end
    return (start == 0 or text[start - 1].isspace()) and (end == len(text) or text[end].isspace())


def _named(text: str, span: Span) -> Span:
    """Call a part of an address without a street a place: a city says less."""
    stretch = text[span.start : span.end]
    if span.label != "ADDRESS" or STREET.search(stretch) or any(map(str.isdigit, stretch)):
        return span
    return replace(span, label="LOCATION")


# A house's number, and more words with capitals after one that is found: the rest of the name.
_NUMBER_IN_FRONT = re.compile(r"(?<!\w)\d{1,5}[a-zA-Z]?,?[ ]$")
_NUMBER_BEHIND = re.compile(r",?[ ]\d{1,5}[a-zA-Z]?(?!\w)")
_REST = re.compile(r"(?:[ -][^\W\d_a-z]\w+)*")


def _whole(text: str, span: Span) -> Span:
    """Let a finding go on to the end of the name, e.g. "Cycle Solutions" after "Rapid"."""
    if span.label == "ADDRESS":
        front = _NUMBER_IN_FRONT.search(text, max(0, span.start - 8), span.start)
        behind = _NUMBER_BEHIND.match(text, span.end)
        start, end = front.start() if front else span.start, behind.end() if behind else span.end
        return replace(span, start=start, end=end)
    if span.label not in ("PERSON", "ORGANIZATION") or not text[span.start].isupper():
        return span
    rest = _REST.match(text, span.end, span.end + _GAP)
    end = rest.end() if rest else span.end
    # A word that is cut off by the limit is left out.
    if end == span.end or (end < len(text) and text[end].isalnum()):
        return span
    return replace(span, end=end)


def _tells(stretch: str, label: str) -> bool:
    """Return whether a stretch is more than signs, an initial, or a number."""
    if max(stretch) >= "\u3040":
        return True
    return sum(map(str.isalpha, stretch)) > (2 if label == "ADDRESS" else 1)
