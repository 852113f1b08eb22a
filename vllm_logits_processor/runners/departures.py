"""Requests that leave vLLM's batch: which are finished, and which may return.

vLLM does not tell a processor why a request left the batch, and V2 does not report that it left. A
request that is preempted, or skips some steps, returns and continues with its stream.

V2 makes no call when the last requests are aborted: `IdleWatch` checks while vLLM makes none.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self
from weakref import WeakMethod

from vllm_logits_processor.engine import FusionEngine
from vllm_logits_processor.fail_open import FailOpen
from vllm_logits_processor.request_options import RequestOptions
from vllm_logits_processor.stream import Stream, known_tokens

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams


#: Steps after which an absent stream counts as finished, and most absent streams kept.
KEPT_STEPS = 256
KEPT_STREAMS = 256
#: Most attempts to open a stream, one per step.
MOST_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class EndRule:
    """Whether an answer's tokens end it, as in the `check_stop` of vLLM's scheduler.

    Stop strings and aborts are not visible here; requests that end by them count as absent.

    Attributes
    ----------
    stop_ids : frozenset of int
        End-of-sequence and stop tokens of the request.
    most_tokens : int
        Most tokens of an answer.
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


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as vLLM adds it to the batch, which may be one that was there before.

    Parameters
    ----------
    prompt_ids, output_ids, options, greedy, unwanted
        See :meth:`vllm_logits_processor.engine.FusionEngine.new_stream`.
    """

    prompt_ids: Sequence[int] | None
    output_ids: list[int]
    options: RequestOptions
    greedy: bool
    unwanted: tuple[int, ...] = ()

    def opened(self, engine: FusionEngine) -> Stream | None:
        """Return a new stream, or None for a request that the host answers alone."""
        return engine.new_stream(
            self.prompt_ids,
            self.output_ids,
            self.options,
            greedy=self.greedy,
            unwanted=self.unwanted,
        )

    def former(self, streams: Iterable[Stream]) -> Stream | None:
        """Return the one of some streams without a row that is the request's, if any.

        vLLM's synchronous scheduling keeps the answer's list; otherwise a request returns with a
        new list of the same tokens. Of several streams that fit, such as answers to one prompt,
        the one that knows most of the answer is taken.
        """
        return max(
            filter(self._continues, streams),
            key=lambda stream: (stream.output_ids is self.output_ids, len(stream.output_ids)),
            default=None,
        )

    def _continues(self, stream: Stream) -> bool:
        if stream.output_ids is self.output_ids:
            return True
        known, now = known_tokens(stream.output_ids), known_tokens(self.output_ids)
        return (
            # One without an answer is new: nothing of a stream would be of use to it.
            bool(now)
            and stream.options == self.options
            and stream.greedy == self.greedy
            and stream.unwanted == self.unwanted
            and stream.prompt_ids is not None
            and stream.prompt_ids == self.prompt_ids
            and now[: len(known)] == known
            # vLLM may have taken tokens back that the stream has read.
            and stream.position <= len(known)
        )


class Departures:
    """Streams that left the batch and may return, limited in steps and number.

    A request that returns later gets a new stream, and two log lines.

    Parameters
    ----------
    engine : FusionEngine
        Receives every ended stream, once.
    fail_open : FailOpen, optional
        Confines a fault in ending a stream to that stream.
    """

    def __init__(self, engine: FusionEngine, *, fail_open: FailOpen | None = None) -> None:
        self._engine = engine
        self._fail_open = fail_open or FailOpen()
        self._step = 0
        #: In the order of leaving, with the step of leaving.
        self._away: list[tuple[int, Stream]] = []

    def leave(self, stream: Stream) -> None:
        """Keep a stream that left the batch."""
        stream.leave_step()
        self._away.append((self._step, stream))

    def take(self, request: Request) -> Stream | None:
        """Remove and return the kept stream of a request, if there is one."""
        former = request.former(stream for _, stream in self._away)
        if former is not None:
            self._away = [each for each in self._away if each[1] is not former]
        return former

    def step(self) -> None:
        """Count a step; end streams that have been absent for too long or exceed the number."""
        self._step += 1
        while self._away and (
            len(self._away) > KEPT_STREAMS or self._away[0][0] + KEPT_STEPS < self._step
        ):
            self._end(self._away.pop(0)[1])

    def end_all(self) -> None:
        """End all kept streams."""
        away, self._away = self._away, []
        for _, stream in away:
            self._end(stream)

    def report_all(self) -> None:
        """Report all as ended; one that returns anyway continues."""
        for _, stream in self._away:
            self._fail_open.aside(partial(self._engine.report_stream, stream), stage="end")

    def _end(self, stream: Stream) -> None:
        self._fail_open.aside(partial(self._engine.end_stream, stream), stage="end")


#: Seconds without a step after which streams are reported as ended.
IDLE_S = 5.0


#: Methods of vLLM's workers between which a step begins and ends.
_STEPS = frozenset({"execute_model", "sample_tokens"})


def step_runs(thread: int) -> bool:
    """Return whether a thread, by its ident, is within a step of vLLM."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if frame.f_code.co_name in _STEPS and module.startswith("vllm.v1.worker."):
            return True
        frame = frame.f_back
    return False


class IdleWatch:
    """Calls a method periodically from its own thread, as long as the method's owner lives.

    Parameters
    ----------
    method : bound method
        Held weakly. It must make sure that no step runs at the same time.
    """

    def __init__(self, method: Callable[[], None], *, every_s: float) -> None:
        self._method = WeakMethod(method)
        self._every_s = every_s
        self._stopped = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="floe-idle", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Let the thread end soon."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._every_s):
            method = self._method()
            if method is None:
                return
            method()
            del method
