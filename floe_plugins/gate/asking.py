"""Asks detectors from a thread of their own, with a deadline.

A gate has one such thread. A detector that does not come back keeps it, and until it does every
question fails at once: nothing could be cleared without that detector anyway. So no decision waits
for a detector that is known to hang, no threads pile up, and the gate recovers when it returns.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from floe_plugins.gate.classes import PROSE
from floe_plugins.gate.detector import Detector, Span
from floe_plugins.gate.verdict import Failure


@dataclass(frozen=True)
class Member:
    """A detector that is asked.

    Attributes
    ----------
    detector : Detector
        The detector.
    plugin : str
        The plugin that it is from.
    labels : frozenset of str
        The labels that it may give.
    """

    detector: Detector
    plugin: str
    labels: frozenset[str]

    def failure(self, reason: str) -> Failure:
        """Return a failure of this detector."""
        return Failure(self.detector.name, self.plugin, reason)


@dataclass(frozen=True)
class Reading:
    """One view of a text.

    Attributes
    ----------
    text : str
        What detectors are asked about.
    values_only : bool
        Whether what is told from prose does not count in it.
    """

    text: str
    values_only: bool = False


class InvalidAnswerError(Exception):
    """A detector answered something that is not a sequence of valid spans of the text."""


@dataclass
class Question:
    """The views of one text, on their way through the detectors.

    Attributes
    ----------
    readings : tuple of Reading
        The views.
    deadline : float
        On the clock of `time.monotonic`, seconds.
    spans : list of set of Span
        What was found, per view; to be read only when `done` is set.
    failures : list of Failure
        Likewise.
    asking : Member or None
        The detector that is at it.
    done : threading.Event
        Set when every detector has been asked.
    """

    readings: tuple[Reading, ...]
    deadline: float
    spans: list[set[Span]] = field(init=False)
    failures: list[Failure] = field(default_factory=list)
    asking: Member | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.spans = [set() for _ in self.readings]

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline


class Asker:
    """The thread that asks a gate's detectors one after the other.

    Parameters
    ----------
    members : sequence of Member
        The detectors.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = tuple(members)
        self._questions: SimpleQueue[Question | None] = SimpleQueue()
        self._current: Question | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def ask(
        self, readings: tuple[Reading, ...], deadline: float
    ) -> tuple[Sequence[set[Span]], Sequence[Failure]]:
        """Ask every detector about every view.

        Parameters
        ----------
        readings : tuple of Reading
            The views of the text.
        deadline : float
            On the clock of `time.monotonic`, seconds.

        Returns
        -------
        spans : sequence of set of Span
            Per view. Complete only if there is no failure.
        failures : sequence of Failure
            One per detector that raised or answered nonsense, or one for the first that is late.
        """
        current = self._current
        if current is not None and current.late:
            return (), (_late(current, "stuck"),)
        self._start()
        question = Question(readings, deadline)
        self._questions.put(question)
        if question.done.wait(max(0.0, deadline - time.monotonic())):
            return question.spans, question.failures
        return (), (_late(question, "late"),)

    def close(self) -> None:
        """Let the thread end once it is idle."""
        self._questions.put(None)

    def _start(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        with self._starting:
            # Also after a fork, where the parent's thread does not exist.
            if self._thread is None or not self._thread.is_alive():
                # A daemon, so that a detector that hangs does not keep the process alive.
                self._thread = threading.Thread(target=self._run, name="floe-gate", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            if question.late:
                continue
            self._current = question
            for member in self._members:
                question.asking = member
                if question.late:
                    break
                _put(question, member)
            else:
                question.done.set()
            self._current = None


def _put(question: Question, member: Member) -> None:
    """Put the question to one detector and take down the answer."""
    try:
        for found, reading in zip(question.spans, question.readings, strict=True):
            if reading.values_only and member.labels <= PROSE:
                continue
            spans = _checked(member, member.detector.detect(reading.text), len(reading.text))
            found.update(
                span for span in spans if not (reading.values_only and span.label in PROSE)
            )
    except BaseException as error:  # noqa: BLE001 - whatever a plugin raises, SystemExit too, makes
        # the text private and must not end the thread. Its message may hold some of the text.
        question.failures.append(member.failure(type(error).__name__))


def _checked(member: Member, answer: object, length: int) -> list[Span]:
    if not isinstance(answer, Sequence) or isinstance(answer, str | bytes):
        raise InvalidAnswerError
    spans = list(answer)
    for span in spans:
        if (
            not isinstance(span, Span)
            or type(span.start) is not int
            or type(span.end) is not int
            or not 0 <= span.start < span.end <= length
            or span.label not in member.labels
        ):
            raise InvalidAnswerError
    return spans


def _late(question: Question, reason: str) -> Failure:
    asking = question.asking
    return Failure("gate", "floe", reason) if asking is None else asking.failure(reason)
