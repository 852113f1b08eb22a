"""Calls in flight: started before the forward pass, settled at a deadline after it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as JoinTimeout
from dataclasses import dataclass
from typing import Protocol

from vllm_logits_processor.experts.breaker import CircuitBreaker
from vllm_logits_processor.experts.reply import ExpertError, ExpertReply

logger = logging.getLogger(__name__)

#: Late calls that may still be on their way before no further one is started.
_MOST_LATE = 4


class Expert(Protocol):
    """A model that can be asked for the next token of many texts at once."""

    def start(self, prompts: Sequence[Sequence[int]], *, model: str) -> Future[ExpertReply]:
        """Begin a call and return at once; the future holds the reply or `ExpertError`."""
        ...


@dataclass
class ExpertCall:
    """One batched call, shared by its streams.

    Attributes
    ----------
    future : Future of ExpertReply
    deadline : float
        Seconds on the monotonic clock; a reply after it is dropped.
    streams : int
        How many streams share the call.
    outcome : str or None
        ``answered``, ``late`` or ``failed``, once settled.
    """

    future: Future[ExpertReply]
    deadline: float
    streams: int
    outcome: str | None = None


class ExpertCalls:
    """Starts calls, waits for them until their deadlines, and spares an expert that keeps failing.

    Parameters
    ----------
    expert : Expert
    breaker : CircuitBreaker
    """

    def __init__(self, expert: Expert, *, breaker: CircuitBreaker) -> None:
        self._expert = expert
        self._breaker = breaker
        self._late: list[Future[ExpertReply]] = []

    def start(
        self, prompts: Sequence[Sequence[int]], *, model: str, deadline_s: float
    ) -> ExpertCall | str:
        """Start a call, or say why not: ``busy`` with late calls, or the breaker is ``open``."""
        now = time.monotonic()
        self._late = [future for future in self._late if not future.done()]
        if len(self._late) >= _MOST_LATE:
            return "busy"
        if not self._breaker.allows(now):
            return "open"
        return ExpertCall(
            future=self._expert.start(prompts, model=model),
            deadline=now + deadline_s,
            streams=len(prompts),
        )

    def settle(self, call: ExpertCall) -> str:
        """Wait for `call` until its deadline; return its outcome, the same each time."""
        if call.outcome is None:
            call.outcome = self._wait(call)
            if call.outcome == "answered":
                self._breaker.succeeded()
            else:
                self._breaker.failed(time.monotonic())
        return call.outcome

    def _wait(self, call: ExpertCall) -> str:
        try:
            call.future.result(timeout=max(0.0, call.deadline - time.monotonic()))
        except JoinTimeout:
            # Left to run: it warms the expert's prefix cache, so that a later call is in time.
            self._late.append(call.future)
            return "late"
        except ExpertError as error:
            logger.warning("%s The host goes on alone for this token.", error)
            return "failed"
        return "answered"
