"""Accounts of one's health or private life, by how many of their words speak of it.

"I wake at three every night and go over everything until it gets light" names no illness, and no
rule of two or three words knows it. But people who tell a doctor or a counsellor about themselves
use many words of bodies, symptoms, medicines, feelings and quarrels close together, in the first
person or of their family. So the words of a stretch are counted by kind, weighted and added up, and
what an assistant is asked to write counts against them: a story about an illness is none.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors import account_words as words
from floe_plugins.gate.growing import Growing
from floe_plugins.gate.matching import lower_in_place

_WORD = re.compile(r"[a-z0-9&]+(?:['’-][a-z]+)*")
_SENTENCE_END = re.compile(r"[.!?\n]")
# "29f" and "41m", as people shorten their age and sex.
_AGE_AND_SEX = re.compile(r"\d\d[fm]")
_ENDINGS = ("ing", "ies", "es", "ed", "s")
_LEAST_STEM = 3

#: Words of a stretch; the next one begins at half of it.
_STRETCH = 120
#: Longer stretches need more words: the norm is the square root of the length over this.
_USUAL = 60
#: The least sum of an account. Chosen on texts made for it, see `docs/results/gate.md`.
_LEAST = 1.6

_SELF, _KIN, _TASK = 1, 2, 4
#: The fewest different words of evidence: one word may mean anything.
_LEAST_WORDS = 2

# Kind: its bit, its words, how many of them count at most, and the weight of each.
_Kinds = Sequence[tuple[int, frozenset[str], int, float]]
_HEALTH: Final[_Kinds] = (
    (8, words.SYMPTOM, 6, 1.0),
    (16, words.BODY, 4, 0.6),
    (32, words.MEDICINE, 4, 0.8),
    (64, words.FINDING, 3, 0.6),
    (128, words.CLINIC, 3, 0.6),
    (256, words.COURSE, 3, 0.35),
)
_PRIVATE_LIFE: Final[_Kinds] = (
    (512, words.FEELING, 6, 0.8),
    (1024, words.CONFLICT, 5, 0.6),
    (2048, words.PARTNER, 2, 0.6),
    (128, words.CLINIC, 2, 0.4),
)
_MOST_SELF, _OF_SELF, _MOST_KIN, _OF_KIN, _MOST_TASKS = 6, 0.35, 3, 0.3, 3
# What speaking of oneself is worth, in any account and in one of private life, which is less sure.
_PERSONAL, _MORE_PERSONAL = 0.4, 0.2


class AccountDetector:
    """Finds accounts of somebody's health, feelings and quarrels in English.

    The span reaches over the sentences that hold the evidence.
    """

    name = "account"
    labels: Sequence[str] = ("HEALTH", "PRIVATE_LIFE")

    def detect(self, text: str) -> Sequence[Span]:
        """Return the accounts of a text."""
        lower = lower_in_place(text)
        found = _WORD.findall(lower)
        kinds = list(map(_kinds_of, found))
        spans: list[Span] = []
        places: list[tuple[int, int]] = []
        for first in _stretches(len(found)):
            of_stretch = kinds[first : first + _STRETCH]
            label = _label_of(found[first : first + _STRETCH], of_stretch)
            if label is not None:
                places = places or [match.span() for match in _WORD.finditer(lower)]
                evidence = [first + at for at, kind in enumerate(of_stretch) if kind > _TASK]
                begin, end = places[evidence[0]][0], places[evidence[-1]][1]
                spans.append(Span(*_sentences(text, begin, end), label))
        return list(_joined(spans))

    def detect_new(self, text: str, new_from: int) -> Sequence[Span]:
        """Return the findings of `detect`; the length of a text decides where its stretches are."""
        return self.detect(text)

    def may_find(self, grown: Growing) -> bool:
        """Return whether new text may make an account.

        Words that are evidence of nothing make none of a stretch that was none, but they may begin
        another stretch. And a text in which nobody speaks of themselves has none at all.
        """
        old = _WORD.findall(grown.text[grown.start : grown.new_from].lower())
        new = _WORD.findall(grown.text[grown.start :].lower())
        read, known = grown.known.get(self, (0, _Counted(0, 0)))
        before = _counted(grown.text[read : grown.start], known)
        grown.known[self] = grown.end, _counted(grown.text[grown.start : grown.end], before)
        kinds = _kinds_in(old, _kinds_in(new))
        if not (before.kinds | kinds) & _SELF:
            return False
        return kinds != 0 or _stretches(before.words + len(new)) != _stretches(
            before.words + len(old)
        )


class _Counted(NamedTuple):
    """How many words a text has, and the kinds of evidence that are among them."""

    words: int
    kinds: int


def _counted(text: str, before: _Counted) -> _Counted:
    """Return the count of a text, with that of the text before it."""
    if not text:
        return before
    found = _WORD.findall(text.lower())
    return _Counted(before.words + len(found), _kinds_in(found, before.kinds))


def _kinds_in(found: Sequence[str], kinds: int = 0) -> int:
    """Return the bits of some words, and those that are given."""
    for word in found:
        kinds |= _kinds_of(word)
    return kinds


def _stretches(count: int) -> range:
    """Return where the stretches of so many words begin."""
    return range(0, max(1, count - _STRETCH // 2), _STRETCH // 2)


def _kinds() -> dict[str, int]:
    """Return the bits of each word that is evidence of something."""
    bits: dict[str, int] = {}
    for bit, listed in (
        (_SELF, words.SELF),
        (_KIN, words.KIN),
        (_TASK, words.TASK),
        *((bit, listed) for bit, listed, *_ in (*_HEALTH, *_PRIVATE_LIFE)),
    ):
        for word in listed:
            bits[word] = bits.get(word, 0) | bit
    return bits


_BITS: Final = _kinds()


@functools.lru_cache(maxsize=50_000)
def _kinds_of(word: str) -> int:
    if _AGE_AND_SEX.fullmatch(word):
        return _SELF
    bits = _BITS.get(word, 0)
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) > len(ending) + _LEAST_STEM:
            # Whoever speaks of themselves has words of their own, not endings.
            return bits | _BITS.get(word[: -len(ending)], 0) & ~_SELF
    return bits


def _label_of(stretch: Sequence[str], kinds: Sequence[int]) -> str | None:
    """Return what a stretch gives account of, or None."""
    length = len(stretch)
    own = sum(kind & _SELF for kind in kinds)
    # A word that is said again says nothing more.
    said = [kind for kind in dict(zip(stretch, kinds, strict=True)).values() if kind > _SELF]
    kin = _count(said, _KIN)
    if not own:
        # "Do statins help after a stroke?" is about nobody.
        return None
    person = _OF_SELF * min(own, _MOST_SELF) + _OF_KIN * min(kin, _MOST_KIN)
    if sum(kind > _TASK for kind in said) < _LEAST_WORDS:
        return None
    tasks = min(_count(said, _TASK), _MOST_TASKS)
    norm = max(1.0, math.sqrt(length / _USUAL))
    health, private_life = _sum(said, _HEALTH), _sum(said, _PRIVATE_LIFE) + _MORE_PERSONAL * person
    if max(health, private_life) / norm + _PERSONAL * person - tasks < _LEAST:
        return None
    return "HEALTH" if health >= private_life else "PRIVATE_LIFE"


def _count(said: Sequence[int], bit: int) -> int:
    return sum(kind & bit != 0 for kind in said)


def _sum(said: Sequence[int], kinds: _Kinds) -> float:
    return sum(weight * min(_count(said, bit), most) for bit, _, most, weight in kinds)


def _sentences(text: str, begin: int, end: int) -> tuple[int, int]:
    """Return the stretch of whole sentences that holds a stretch of a text."""
    first = max(text.rfind(mark, 0, begin) for mark in ".!?\n") + 1
    first += len(text[first:begin]) - len(text[first:begin].lstrip())
    after = _SENTENCE_END.search(text, end)
    return first, len(text.rstrip()) if after is None else after.end()


def _joined(spans: Sequence[Span]) -> Iterator[Span]:
    """Join spans of one label that overlap."""
    for label in AccountDetector.labels:
        last: Span | None = None
        for span in spans:
            if span.label != label:
                continue
            if last is not None and span.start <= last.end:
                last = Span(last.start, max(last.end, span.end), label)
                continue
            if last is not None:
                yield last
            last = span
        if last is not None:
            yield last
