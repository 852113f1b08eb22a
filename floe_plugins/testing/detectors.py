"""What every privacy detector must hold."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

from floe_plugins.gate.detector import Detector, Span
from floe_plugins.gate.members import LONGEST
from floe_plugins.manager_checks import NAME
from floe_plugins.testing.texts import ODD, PASSAGES, long_texts, random_texts

_SHORT, _TIMES_LONGER = 4_000, 8
#: Quadratic code takes eight times as long per character on a text eight times as long.
_SLOWER_PER_CHARACTER = 4.0
#: Below this a ratio is noise.
_MEASURABLE_S = 0.002


class DetectorConformance:
    """Tests of one detector; inherit in a class whose name begins with ``Test``.

    Attributes
    ----------
    detector : Detector
        The detector.
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
        """The author's own texts come out as the author says."""
        missed = [text for text in self.examples if not self.detector.detect(text)]
        assert missed == []
        alarms = {text: found for text in self.clean if (found := self.detector.detect(text))}
        assert alarms == {}

    def test_it_never_raises_and_its_spans_are_in_range(self) -> None:
        """Every answer is a sequence of non-empty spans of the text, with known labels."""
        for text in (*self._texts(), *ODD, *random_texts(300)):
            _check_spans(self.detector, text, self.detector.detect(text))

    def test_it_is_deterministic(self) -> None:
        """The answer depends on the text alone: not on order, repetition or the thread."""
        texts = [*self._texts(), *ODD, *random_texts(50)]
        first = [_found(self.detector, text) for text in texts]
        backwards = [_found(self.detector, text) for text in reversed(texts)]
        assert first == backwards[::-1]
        with ThreadPoolExecutor(1) as thread:
            assert first == list(thread.map(lambda text: _found(self.detector, text), texts))

    def test_chunks_together_find_what_the_whole_does(self) -> None:
        """Cut anywhere into two chunks that overlap by `longest`, nothing of the whole is missed.

        That is how generated text is scanned while it grows. More may be found in a chunk than in
        the whole, never less.
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

    def test_it_takes_linear_time(self) -> None:
        """No text takes much longer per character because it is longer."""
        pairs = zip(
            long_texts(_SHORT, tuple(self.examples)),
            long_texts(_SHORT * _TIMES_LONGER, tuple(self.examples)),
            strict=True,
        )
        for (piece, short), (_, long) in pairs:
            allowed = _SLOWER_PER_CHARACTER * _TIMES_LONGER
            # Once more where it was slow: the machine may have been busy.
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
        # This thread's own time: what else the machine does must not count.
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


def _covered(span: Span, others: Iterable[Span]) -> bool:
    """Tell whether spans of the same label cover one, together and without a gap."""
    reached = span.start
    for other in sorted(each for each in others if each.label == span.label):
        if other.start <= reached:
            reached = max(reached, other.end)
    return reached >= span.end
