"""Calls in flight: started before the forward pass, settled at a deadline after it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as JoinTimeout
from dataclasses import dataclass, field
from typing import Protocol

from vllm_logits_processor.experts.pool import ExpertPool
from vllm_logits_processor.experts.reply import ExpertError, ExpertOpenError, ExpertReply

logger = logging.getLogger(__name__)

#: Late calls to one model that may still be on their way before no further one is started.
_MOST_LATE = 4
#: The same of calls ahead that nobody waits for any more; then none is started ahead.
_MOST_LEFT = 4


class OnSettled(Protocol):
    """Is told of every call that was started, when its outcome is known."""

    def __call__(
        self, *, outcome: str, seconds: float, prompts: int, sent_bytes: int, received_bytes: int
    ) -> None:
        """Take in one call.

        Parameters
        ----------
        outcome : str
            ``answered``, ``late`` or ``failed``; ``dropped`` when a late call ends after all, which
            brings its bytes, and no prompts. A call that was left to itself is told of when it
            ends.
        seconds : float
            From the start to the reply, or for ``late`` to the deadline.
        prompts : int
        sent_bytes, received_bytes : int
            Sizes of the bodies.
        """
        ...


@dataclass
class ExpertCall:
    """One batched call, shared by its streams.

    Attributes
    ----------
    future : Future of ExpertReply
    deadline : float
        Seconds on the monotonic clock; a reply after it is dropped.
    prompts : int
        How many prompts share the call.
    model : str
    outcome : str or None
        ``answered``, ``late`` or ``failed``, once settled.
    told : bool
        Whether `OnSettled` has been told of it.
    """

    future: Future[ExpertReply]
    deadline: float
    prompts: int
    model: str
    outcome: str | None = None
    told: bool = False
    _begun: float = field(default_factory=time.monotonic)
    _ended: float | None = None

    def __post_init__(self) -> None:
        self.future.add_done_callback(self._note_end)

    def _note_end(self, future: Future[ExpertReply]) -> None:
        del future
        self._ended = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the call took, or has taken so far."""
        return (self._ended or time.monotonic()) - self._begun


class ExpertCalls:
    """Starts calls and waits for them until their deadlines.

    Whether a failing expert is spared is decided in one place, the breakers of its pool.

    Parameters
    ----------
    pool : ExpertPool
    on_settled : callable, optional
        See `OnSettled`; called from any thread.
    """

    def __init__(self, pool: ExpertPool, *, on_settled: OnSettled | None = None) -> None:
        self._pool = pool
        self._on_settled = on_settled
        self._late: dict[str, list[Future[ExpertReply]]] = {}
        self._left: list[Future[ExpertReply]] = []
        self._lock = threading.Lock()

    @property
    def crowded(self) -> bool:
        """Whether so many calls were left to themselves that none should be started ahead."""
        self._left = [future for future in self._left if not future.done()]
        return len(self._left) >= _MOST_LEFT

    def start(
        self, prompts: Sequence[Sequence[int]], *, model: str, deadline_s: float, steps: int = 1
    ) -> ExpertCall | str:
        """Start a call, or say why not: ``busy`` with late calls, or all breakers are ``open``.

        Parameters
        ----------
        prompts, model, steps
            See :class:`vllm_logits_processor.experts.protocol.Expert`.
        deadline_s : float
            Seconds from now within which the reply counts.
        """
        # Of all models: requests name theirs, and one that is never named again must not stay.
        self._late = {
            name: flying
            for name, futures in self._late.items()
            if (flying := [future for future in futures if not future.done()])
        }
        if len(self._late.get(model, ())) >= _MOST_LATE:
            return "busy"
        future = self._pool.start(prompts, model=model, steps=steps)
        if _is_open(future):
            return "open"
        return ExpertCall(
            future=future,
            deadline=time.monotonic() + deadline_s,
            prompts=len(prompts),
            model=model,
        )

    def settle(self, call: ExpertCall) -> str:
        """Wait for `call` until its deadline; return its outcome, the same each time."""
        if call.outcome is None:
            call.outcome = self._wait(call)
            reply = call.future.result() if call.outcome == "answered" else None
            first = self._tell_of(call, call.outcome, reply)
            if call.outcome == "late" and first:
                # Left to run: it warms the expert's prefix cache, so that a later call is in time.
                self._late.setdefault(call.model, []).append(call.future)
                self._pool.late(call.future)
                call.future.add_done_callback(lambda future: self._drop(call, future))
        return call.outcome

    def renew(self, call: ExpertCall, *, deadline_s: float) -> None:
        """Give a call that was started ahead the time that one started now would have.

        Streams share calls, and it may have been late for one that needed it sooner.
        """
        call.deadline = max(call.deadline, time.monotonic() + deadline_s)
        if call.outcome == "late":
            call.outcome = None

    def leave(self, call: ExpertCall) -> None:
        """Leave a call to itself: nobody waits for it any more, and it is told of when it ends."""
        if not call.future.done() and call.future not in self._left:
            self._left.append(call.future)
        call.future.add_done_callback(lambda future: self._end_alone(call, future))

    def _wait(self, call: ExpertCall) -> str:
        try:
            call.future.result(timeout=max(0.0, call.deadline - time.monotonic()))
        except JoinTimeout:
            return "late"
        except (ExpertError, CancelledError) as error:
            logger.warning("%s The host goes on alone for this token.", what_failed(error))
            return "failed"
        return "answered"

    def _drop(self, call: ExpertCall, future: Future[ExpertReply]) -> None:
        """Count the bytes of a late call; its reply is of no use any more."""
        if not future.cancelled() and future.exception() is None:
            self._tell(call, "dropped", 0, future.result())

    def _end_alone(self, call: ExpertCall, future: Future[ExpertReply]) -> None:
        failed = future.cancelled() or future.exception() is not None
        self._tell_of(call, "failed" if failed else "answered", None if failed else future.result())

    def _tell_of(self, call: ExpertCall, outcome: str, reply: ExpertReply | None) -> bool:
        """Tell of a call once, whichever of its streams or threads comes first."""
        with self._lock:
            first, call.told = not call.told, True
        if first:
            self._tell(call, outcome, call.prompts, reply)
        return first

    def _tell(
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
    """Return an expert's error as a sentence; that of a cancelled call has no words of its own."""
    return str(error) or "The call was cancelled."


def _is_open(future: Future[ExpertReply]) -> bool:
    return (
        future.done() and not future.cancelled() and isinstance(future.exception(), ExpertOpenError)
    )
