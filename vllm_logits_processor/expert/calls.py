"""Calls in flight: started before the forward pass, settled at a deadline after it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as JoinTimeout
from dataclasses import dataclass, field
from typing import Literal, Protocol

from vllm_logits_processor.expert.call_times import CallTimes
from vllm_logits_processor.expert.pool import ExpertPool, Patience
from vllm_logits_processor.expert.protocol import ExpertError, ExpertOpenError, ExpertReply

logger = logging.getLogger(__name__)

#: Most unawaited calls kept in flight; the oldest are cancelled.
_MOST_UNAWAITED = 8
#: No further first call is started while this many are in flight.
_MOST_FIRST = 8
#: No call is started ahead while this many abandoned calls are in flight.
_MOST_ABANDONED = 4

#: What a call is for. ``now``: the next token of texts that the expert has read; ``first``: a text
#: that it has yet to read; ``ahead``: the expected continuation of a text.
Kind = Literal["now", "first", "ahead"]


class OnSettled(Protocol):
    """Receives the outcome of every call."""

    def __call__(
        self, *, outcome: str, seconds: float, prompts: int, sent_bytes: int, received_bytes: int
    ) -> None:
        """Receive the outcome of one call.

        Parameters
        ----------
        outcome : str
            ``answered``, ``late`` or ``failed``; ``dropped`` when a late call ends, with its bytes
            and no prompts. An abandoned call is reported when it ends.
        seconds : float
            From the start to the reply, or for ``late`` to the deadline.
        sent_bytes, received_bytes : int
            Sizes of the bodies.
        """
        ...


@dataclass
class ExpertCall:
    """One batched call, shared by its streams.

    Attributes
    ----------
    deadline : float
        Monotonic time, in seconds, until which it is awaited.
    expires : float
        Monotonic time until which its reply is useful; after `deadline` only for first calls.
    steps : int
        The tokens that it asks for after each prompt.
    kind : str
        See `Kind`.
    probe : bool
        Whether it only tests if a server has recovered; it is not awaited.
    outcome : str or None
        ``answered``, ``late``, ``failed`` or ``open``, once settled.
    reply : ExpertReply or None
        Once it is settled as ``answered``.
    reported : bool
        Whether `OnSettled` has received it.
    """

    future: Future[ExpertReply]
    deadline: float
    expires: float
    prompts: int
    steps: int = 1
    kind: Kind = "now"
    probe: bool = False
    outcome: str | None = None
    reply: ExpertReply | None = None
    reported: bool = False
    _begun: float = field(default_factory=time.monotonic)
    _ended: float | None = None

    def __post_init__(self) -> None:
        self.future.add_done_callback(self._note_end)

    def _note_end(self, future: Future[ExpertReply]) -> None:
        del future
        self._ended = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds that the call took, or has taken so far."""
        return (self._ended or time.monotonic()) - self._begun

    @property
    def age_s(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._begun


class ExpertCalls:
    """Starts calls and waits for them until their deadlines.

    Only the breakers of the pool decide whether a failing expert is skipped.

    Parameters
    ----------
    on_settled : callable, optional
        See `OnSettled`; called from any thread.
    times : CallTimes, optional
        Where the times of calls are noted that continue texts.
    """

    def __init__(
        self,
        pool: ExpertPool,
        *,
        on_settled: OnSettled | None = None,
        times: CallTimes | None = None,
    ) -> None:
        self._pool = pool
        self._on_settled = on_settled
        self._times = times or CallTimes()
        self._unawaited: list[ExpertCall] = []
        self._first: list[ExpertCall] = []
        #: Those in flight; each leaves when it ends, in any thread.
        self._abandoned: set[Future[ExpertReply]] = set()
        self._lock = threading.Lock()

    @property
    def context(self) -> int | None:
        """The most tokens of a text, those to come among them, if the experts say so."""
        return self._pool.context

    @property
    def crowded(self) -> bool:
        """Whether too many abandoned calls are in flight to start another one ahead."""
        return len(self._abandoned) >= _MOST_ABANDONED

    def start(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        model: str,
        deadline_s: float,
        life_s: float = 30.0,
        steps: int = 1,
        kind: Kind = "now",
    ) -> ExpertCall | str:
        """Start a call, or return why not: ``busy`` (with first calls) or ``open`` (all breakers).

        Parameters
        ----------
        prompts, model, steps
            See :class:`vllm_logits_processor.expert.protocol.Expert`.
        deadline_s : float
            Seconds from now for which it is awaited.
        life_s : float
            Seconds from now after which it is cancelled. Until then the reply to a first call is
            useful; a late reply of another kind is not, but the call has warmed the expert's cache.
        kind : str
            See `Kind`.
        """
        if kind == "first" and self._reading_many():
            return "busy"
        life_s = max(life_s, deadline_s)
        fails_s = deadline_s if kind == "now" else life_s
        future = self._pool.start(
            prompts,
            model=model,
            steps=steps,
            patience=Patience(quick_s=deadline_s, fails_s=fails_s, life_s=life_s),
        )
        # The pool has judged these calls by now.
        self._cancel_oldest()
        if _is_open(future):
            return "open"
        now = time.monotonic()
        probe = self._pool.probing(future)
        call = ExpertCall(
            future=future,
            deadline=now if probe else now + deadline_s,
            expires=now + (life_s if kind == "first" else deadline_s),
            prompts=len(prompts),
            steps=steps,
            kind=kind,
            probe=probe,
        )
        if kind == "first":
            self._first.append(call)
        else:
            # Reading a text takes longer than continuing it.
            future.add_done_callback(lambda future: self._note_time(call, future))
        return call

    def settle(self, call: ExpertCall) -> str:
        """Wait for `call` until its deadline; return its outcome, the same each time.

        A call past its deadline whose reply is still useful is ``reading`` until it is settled. A
        probe, which is not awaited, is ``open`` until then.
        """
        if call.outcome is None:
            if call.kind == "now" and not call.probe:
                self._times.observe_host(call.age_s)
            outcome = self._wait(call)
            if outcome == "late" and time.monotonic() < call.expires:
                return "open" if call.probe else "reading"
            call.outcome = outcome
            call.reply = call.future.result() if outcome == "answered" else None
            first = self._report_once(call, "failed" if outcome == "open" else outcome, call.reply)
            if outcome == "late" and first:
                # It continues: it warms the expert's prefix cache, so that later calls are in time.
                self._unawaited.append(call)
                call.future.add_done_callback(lambda future: self._drop(call, future))
        return call.outcome

    def renew(self, call: ExpertCall, *, deadline_s: float) -> None:
        """Extend a call that was started ahead to the deadline of one started now.

        Streams share calls, and the call may already be late for a stream that needed it earlier.
        """
        call.deadline = max(call.deadline, time.monotonic() + deadline_s)
        call.expires = max(call.expires, call.deadline)
        self._pool.renew(call.future, seconds=deadline_s)
        if call.outcome == "late":
            call.outcome = None

    def abandon(self, call: ExpertCall) -> None:
        """Abandon a call: it is no longer awaited, and is reported when it ends."""
        if not call.future.done() and call.future not in self._abandoned:
            self._abandoned.add(call.future)
            call.future.add_done_callback(self._abandoned.discard)
            self._unawaited.append(call)
        call.future.add_done_callback(lambda future: self._end_alone(call, future))

    def _wait(self, call: ExpertCall) -> str:
        try:
            call.future.result(timeout=max(0.0, call.deadline - time.monotonic()))
        except JoinTimeout:
            return "late"
        except ExpertOpenError:
            return "open"
        except (ExpertError, CancelledError) as error:
            logger.warning("%s The host goes on alone for this token.", what_failed(error))
            return "failed"
        return "answered"

    def _reading_many(self) -> bool:
        """Return whether no further first call may start, after ending those past their life."""
        self._first = [call for call in self._first if not call.future.done()]
        if len(self._first) < _MOST_FIRST:
            return False
        # No call starts, and only that would show the pool that these are never answered.
        self._pool.check_time_limits()
        now = time.monotonic()
        for call in self._first:
            if call.expires < now:
                call.future.cancel()
        self._first = [call for call in self._first if not call.future.done()]
        return len(self._first) >= _MOST_FIRST

    def _cancel_oldest(self) -> None:
        """Cancel the oldest of the calls whose replies are no longer useful."""
        now = time.monotonic()
        self._unawaited = [call for call in self._unawaited if not call.future.done()]
        # Another of its streams may still await a call, or have renewed it.
        useless = [call for call in self._unawaited if call.expires < now]
        for call in useless[:-_MOST_UNAWAITED]:
            call.future.cancel()

    def _note_time(self, call: ExpertCall, future: Future[ExpertReply]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._times.observe_call(steps=call.steps, seconds=call.seconds)

    def _drop(self, call: ExpertCall, future: Future[ExpertReply]) -> None:
        """Count the bytes of a late call; its reply is no longer useful."""
        if not future.cancelled() and future.exception() is None:
            self._report(call, "dropped", 0, future.result())

    def _end_alone(self, call: ExpertCall, future: Future[ExpertReply]) -> None:
        failed = future.cancelled() or future.exception() is not None
        self._report_once(
            call, "failed" if failed else "answered", None if failed else future.result()
        )

    def _report_once(self, call: ExpertCall, outcome: str, reply: ExpertReply | None) -> bool:
        """Report a call once, for the first of its streams or threads."""
        with self._lock:
            first, call.reported = not call.reported, True
        if first:
            self._report(call, outcome, call.prompts, reply)
        return first

    def _report(
        self, call: ExpertCall, outcome: str, prompts: int, reply: ExpertReply | None
    ) -> None:
        if self._on_settled is not None:
            self._on_settled(
                outcome=outcome,
                seconds=call.seconds,
                prompts=prompts,
                sent_bytes=reply.sent_bytes if reply else 0,
                received_bytes=reply.received_bytes if reply else 0,
            )


def what_failed(error: BaseException) -> str:
    """Return an expert's error as a sentence; a cancelled call's error has no message."""
    return str(error) or "The call was cancelled."


def _is_open(future: Future[ExpertReply]) -> bool:
    return (
        future.done() and not future.cancelled() and isinstance(future.exception(), ExpertOpenError)
    )
