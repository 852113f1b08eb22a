"""Requests that leave vLLM's batch: which are finished, and which may come back.

vLLM tells a processor that a request has left the batch, or not even that, but never why. A request
that is preempted, or that has to sit out some steps, comes back and goes on with its stream.

V2 says nothing when the last requests are aborted: `IdleWatch` looks while vLLM does not call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self
from weakref import WeakMethod

from vllm_logits_processor.engine import FusionEngine
from vllm_logits_processor.fail_open import FailOpen
from vllm_logits_processor.stream import Stream

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams


#: Steps after which a stream that is away counts as finished, and most streams that are kept.
KEPT_STEPS = 256
KEPT_STREAMS = 256
#: How often a stream that fails to open is tried, a step each time.
MOST_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class EndRule:
    """When vLLM ends an answer by its tokens, as its scheduler's `check_stop` does.

    Stop strings and aborts are not seen from here; requests that end so end as absent ones.

    Attributes
    ----------
    stop_ids : frozenset of int
        End-of-sequence and stop tokens of the request.
    most_tokens : int
        Tokens of the longest answer.
    """

    stop_ids: frozenset[int]
    most_tokens: int

    @classmethod
    def of(cls, params: SamplingParams, *, prompt_length: int, max_model_len: int) -> Self:
        """Read the rule of one request."""
        stop_ids = set(params.stop_token_ids or ())
        if params.eos_token_id is not None:
            stop_ids.add(params.eos_token_id)
        room = max_model_len - prompt_length
        most = room if params.max_tokens is None else min(room, params.max_tokens)
        return cls(stop_ids=frozenset(stop_ids), most_tokens=most)

    def ends(self, length: int, last: list[int]) -> bool:
        """Return whether an answer of `length` tokens that ends with `last` is finished."""
        return length >= self.most_tokens or not self.stop_ids.isdisjoint(last)


class Departures:
    """Streams that left the batch and may come back, for some steps and up to some number.

    A request that comes back later than that gets a stream anew: its log line is in two parts.

    Parameters
    ----------
    engine : FusionEngine
        Told of every stream that has ended, once.
    fallback : FailOpen, optional
        A fault in ending one stream is that stream's alone.
    """

    def __init__(self, engine: FusionEngine, *, fallback: FailOpen | None = None) -> None:
        self._engine = engine
        self._fallback = fallback or FailOpen()
        self._step = 0
        #: In the order of leaving, with the step at which it was.
        self._away: list[tuple[int, Stream]] = []

    def leave(self, stream: Stream) -> None:
        """Keep a stream that left the batch."""
        self._away.append((self._step, stream))

    def take(self, fits: Callable[[Stream], bool]) -> Stream | None:
        """Give back the first kept stream that fits."""
        for place, (_, stream) in enumerate(self._away):
            if fits(stream):
                del self._away[place]
                return stream
        return None

    def step(self) -> None:
        """Count a step; streams that have been away for too long, or are too many, end."""
        self._step += 1
        while self._away and (
            len(self._away) > KEPT_STREAMS or self._away[0][0] + KEPT_STEPS < self._step
        ):
            self._end(self._away.pop(0)[1])

    def end_all(self) -> None:
        """End all: nobody is left who could have taken their place."""
        away, self._away = self._away, []
        for _, stream in away:
            self._end(stream)

    def report_all(self) -> None:
        """Report all as ended; one that comes back all the same goes on."""
        for _, stream in self._away:
            self._fallback.aside(partial(self._engine.report_stream, stream), stage="end")

    def _end(self, stream: Stream) -> None:
        self._fallback.aside(partial(self._engine.end_stream, stream), stage="end")


#: Seconds without a step after which the streams are reported as ended.
IDLE_S = 5.0


class IdleWatch:
    """Calls a method now and then from a thread of its own, as long as its owner lives.

    Parameters
    ----------
    method : bound method
        Held weakly. It must see to it that no step runs beside it.
    every_s : float
    """

    def __init__(self, method: Callable[[], None], *, every_s: float) -> None:
        self._method = WeakMethod(method)
        self._every_s = every_s
        self._stopped = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="floe-idle", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End the thread, soon."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._every_s):
            method = self._method()
            if method is None:
                return
            method()
            del method
