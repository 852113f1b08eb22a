"""The conformance suite of privacy detectors, and its texts."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

from floe_plugins.gate.detector import Detector, Span
from floe_plugins.gate.growing import new_findings, reads_new
from floe_plugins.gate.runner import LONGEST
from floe_plugins.manager_checks import NAME

_SHORT, _TIMES_LONGER = 4_000, 8
#: Pieces by which a text grows, and how much is before them.
_PIECE_CHARS, _FILLED = 4, 12
#: Quadratic code takes eight times as long per character on a text eight times as long.
_SLOWER_PER_CHARACTER = 4.0
#: Below this a ratio is noise.
_MEASURABLE_S = 0.002


class DetectorConformance:
    """Tests of one detector; inherit in a class whose name begins with ``Test``.

    Attributes
    ----------
    examples : sequence of str
        Texts in which it finds something.
    clean : sequence of str
        Texts in which it finds nothing.
    """

    detector: ClassVar[Detector]
    examples: ClassVar[Sequence[str]] = ()
    clean: ClassVar[Sequence[str]] = ()

    @property
    def longest(self) -> int:
        """The longest finding in characters: the detector's attribute `longest`, or 1,024.

        The gate scans a growing text in windows that overlap by so much.
        """
        return int(getattr(self.detector, "longest", LONGEST))

    def test_it_says_what_it_is(self) -> None:
        """Name and labels are what the manager and the gate accept."""
        assert isinstance(self.detector, Detector), "it lacks name, labels or detect"
        assert NAME.fullmatch(self.detector.name)
        labels = list(self.detector.labels)
        assert labels
        assert all(isinstance(label, str) and label.isidentifier() for label in labels)
        assert 1 <= self.longest <= 1_000_000

    def test_it_finds_the_examples_and_nothing_in_clean_texts(self) -> None:
        """Every example has a finding, and no clean text has one."""
        missed = [text for text in self.examples if not self.detector.detect(text)]
        assert missed == []
        alarms = {text: found for text in self.clean if (found := self.detector.detect(text))}
        assert alarms == {}

    def test_it_never_raises_and_its_spans_are_in_range(self) -> None:
        """Every answer is a sequence of non-empty spans of the text, with known labels."""
        for text in (*self._texts(), *ODD, *random_texts(300)):
            _check_spans(self.detector, text, self.detector.detect(text))

    def test_it_is_deterministic(self) -> None:
        """The answer depends on the text alone, not on order, repetition or thread."""
        texts = [*self._texts(), *ODD, *random_texts(50)]
        first = [_found(self.detector, text) for text in texts]
        backwards = [_found(self.detector, text) for text in reversed(texts)]
        assert first == backwards[::-1]
        with ThreadPoolExecutor(1) as thread:
            assert first == list(thread.map(lambda text: _found(self.detector, text), texts))

    def test_chunks_together_find_what_the_whole_does(self) -> None:
        """Two chunks that overlap by `longest` have all findings of the whole, wherever it is cut.

        The gate scans generated text in such chunks. A chunk may have more findings than the whole,
        never fewer.
        """
        filler = "and then some more words were said about nothing at all, "
        for text in self._texts():
            around = (filler * (self.longest // len(filler) + 1))[: self.longest]
            whole = f"{around} {text} {around}"
            found = self.detector.detect(whole)
            begin, end = len(around), len(around) + len(text) + 2
            for cut in range(begin, end, max(1, len(text) // 40)):
                early = self.detector.detect(whole[:cut])
                shift = cut - self.longest
                late = self.detector.detect(whole[shift:])
                moved = [Span(span.start + shift, span.end + shift, span.label) for span in late]
                missed = [
                    (span.label, whole[span.start : span.end])
                    for span in found
                    if span.end - span.start <= self.longest
                    and not _covered(span, (*early, *moved))
                ]
                assert not missed, f"missed when cut at {whole[cut - 20 : cut]!r}"

    def test_new_text_is_found_from_what_the_detector_reads_of_it(self) -> None:
        """With a `reach`, or `detect_new`, it finds in a growing text what it finds in the whole.

        The text grows by pieces of words, as a reply does. What was found before need not be found
        again, and more may be found than in the whole.
        """
        if not reads_new(self.detector):
            return
        filler = "and then some more words were said about nothing at all, " * _FILLED
        for text in self._texts():
            whole = filler + text + " and so on"
            known = len(filler)
            before = self.detector.detect(filler)
            for end in range(known + _PIECE_CHARS, len(whole) + _PIECE_CHARS, _PIECE_CHARS):
                now = self.detector.detect(whole[:end])
                found = new_findings(self.detector, whole[:end], known)
                missed = [
                    (span.label, whole[span.start : span.end])
                    for span in now
                    if not _touched(span, before) and not _touched(span, found)
                ]
                assert not missed, f"missed when {whole[known:end]!r} is new"
                before, known = now, min(end, len(whole))

    def test_it_takes_linear_time(self) -> None:
        """A longer text does not take much longer per character."""
        pairs = zip(
            long_texts(_SHORT, tuple(self.examples)),
            long_texts(_SHORT * _TIMES_LONGER, tuple(self.examples)),
            strict=True,
        )
        for (piece, short), (_, long) in pairs:
            allowed = _SLOWER_PER_CHARACTER * _TIMES_LONGER
            # Repeated if slow: the machine may have been busy.
            for attempt in range(3):
                taken = self._seconds(long)
                base = max(self._seconds(short), _MEASURABLE_S)
                if taken <= allowed * base:
                    break
                assert attempt < 2, (
                    f"{len(long):,} characters of {piece!r} took {taken:.3f} s, "
                    f"{len(short):,} took {base:.3f} s"
                )

    def _texts(self) -> Iterable[str]:
        return (*self.examples, *self.clean, *PASSAGES)

    def _seconds(self, text: str) -> float:
        # This thread's own time, so that other load does not count.
        begun = time.thread_time()
        self.detector.detect(text)
        return time.thread_time() - begun


def _found(detector: Detector, text: str) -> list[Span]:
    return sorted(detector.detect(text))


def _check_spans(detector: Detector, text: str, answer: object) -> None:
    assert isinstance(answer, Sequence), f"{text!r}: {type(answer).__name__} is no sequence"
    for span in answer:
        assert isinstance(span, Span), text
        assert type(span.start) is int, text
        assert type(span.end) is int, text
        assert 0 <= span.start < span.end <= len(text), (text, span)
        assert span.label in detector.labels, (text, span)


def _touched(span: Span, others: Iterable[Span]) -> bool:
    return any(
        each.label == span.label and each.start < span.end and span.start < each.end
        for each in others
    )


def _covered(span: Span, others: Iterable[Span]) -> bool:
    """Return whether spans of the same label together cover `span` without a gap."""
    reached = span.start
    for other in sorted(each for each in others if each.label == span.label):
        if other.start <= reached:
            reached = max(reached, other.end)
    return reached >= span.end


#: Examples of most kinds that detectors look for; not real.
PASSAGES = (
    "Write to joe.bloggs@example.org or call +44 20 7946 0018 before Friday, and quote 4111 1111 "
    "1111 1111; the account is GB82 WEST 1234 5698 7654 32.",
    "My name is Alice Fortescue, I live at 12 Orchard Lane, Cambridge CB2 1TN, and I was diagnosed "
    "with diabetes in 2019. My SSN is 536-90-4399.",
    "ssh root@192.168.17.4 with password=hunter2!Tr0ub4dor and AKIAIOSFODNN7EXAMPLE, then open "
    "https://admin:s3cret@intranet.example.com/users/17.",
    "Water boils at 100 degrees. The quick brown fox jumps over the lazy dog, again and again.",
)

#: Unusual texts.
ODD = (
    "",
    " ",
    "\n\n\n",
    "\x00",
    "\x00joe@example.org\x00",
    "\ufeff\u200b\u200d\u00ad",
    "\U0010ffff\U0001f600\U0001f468\u200d\U0001f469",
    "e\u0301" * 20,
    "\u202ejoe\u202c",
    "٤١١١ ١١١١ ١١١١ ١١١١",
    "４１１１１１１１１１１１１１１１",
    "((((((((((",
    "\\" * 30,
    "%s %d {} {0} %(name)s",
    "<script>alert('x')</script>",
    "a" * 300,
    "1" * 300,
    "@" * 50,
    "." * 50,
    "\t\r\v\f\u2028\u2029",
)

_PIECES = (
    *"aZ09 @.-_+:/\\()[]{}<>#%&'\"\n\té你٣\u200b\u00ad😀\x00",
    "joe",
    "@example.org",
    "4111",
    "GB82",
    "192.168.",
    "password=",
    "+44 ",
    "-----BEGIN ",
)

#: Pieces whose repetition has made patterns backtrack.
_REPEATED = (
    "1",
    "a",
    "A1",
    "1 ",
    "1-",
    "a@",
    "@a.",
    "a.",
    ".",
    "-",
    " ",
    "\n",
    "(",
    "[{(",
    "https://",
    "=",
    "GB82 WEST ",
    "Mr. ",
    "é",
    "\u200b",
)


def random_texts(count: int, *, seed: int = 0) -> Iterator[str]:
    """Yield texts of random pieces, the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(count):
        yield "".join(rng.choice(_PIECES) for _ in range(rng.randint(1, 80)))


def long_texts(length: int, examples: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield (what it repeats, text), every text `length` characters long."""
    for piece in (*_REPEATED, *examples, *PASSAGES):
        if piece:
            yield piece, (piece * (length // len(piece) + 1))[:length]
