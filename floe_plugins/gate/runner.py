"""Asks detectors from a thread of their own, with a deadline.

A gate has one such thread. A detector that does not come back keeps it, and until it does every
question fails at once: nothing could be cleared without that detector anyway.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from floe_plugins.gate.classes import PROSE
from floe_plugins.gate.detector import Detector, Span
from floe_plugins.gate.verdict import Failure
from floe_plugins.isolation import InvalidAnswerError, PluginCallError
from floe_plugins.isolation_thread import LATE, STUCK, IsolationThread


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
        What was found, per view; to be read only when every detector has been asked.
    failures : list of Failure
        Likewise.
    asking : Member or None
        The detector that is at it.
    """

    readings: tuple[Reading, ...]
    deadline: float
    spans: list[set[Span]] = field(init=False)
    failures: list[Failure] = field(default_factory=list)
    asking: Member | None = None

    def __post_init__(self) -> None:
        self.spans = [set() for _ in self.readings]

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline

    def failure(self, reason: str) -> Failure:
        """Return a failure of the detector that is at it, or of the gate if none is yet."""
        asking = self.asking
        return Failure("gate", "floe", reason) if asking is None else asking.failure(reason)


class Asker:
    """Asks a gate's detectors one after the other, in a thread of their own.

    Parameters
    ----------
    members : sequence of Member
        The detectors.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = tuple(members)
        self._thread = IsolationThread("floe-gate")
        #: What the thread is at, or was last.
        self._current: Question | None = None

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
        question = Question(readings, deadline)
        try:
            asked_all = self._thread.run(partial(self._put_to_all, question), deadline=deadline)
        except PluginCallError as error:
            stuck = self._current if error.reason == STUCK else None
            return (), ((stuck or question).failure(error.reason),)
        if not asked_all:
            return (), (question.failure(LATE),)
        return question.spans, question.failures

    def close(self) -> None:
        """Let the thread end once it is idle."""
        self._thread.close()

    def _put_to_all(self, question: Question) -> bool:
        """Put the question to the detectors; False where the deadline came before the last."""
        self._current = question
        for member in self._members:
            question.asking = member
            if question.late:
                return False
            _put(question, member)
        return True


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
