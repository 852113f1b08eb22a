"""Servers of one expert: the quickest healthy one is asked, and a second one where it is slow."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from vllm_logits_processor.experts.breaker import CircuitBreaker
from vllm_logits_processor.experts.loop import LoopThread
from vllm_logits_processor.experts.protocol import Expert
from vllm_logits_processor.experts.reply import ExpertOpenError, ExpertReply, NoSuchModelError

T = TypeVar("T")

#: Weight of the latest call in a server's running latency.
_LATEST = 0.2
#: Seconds in which the latency of a server that is not asked halves in memory: a server that was
#: slow once is tried again.
_HALF_LIFE_S = 30.0


class OnBreaker(Protocol):
    """Is told the state of a server's breaker, at the start and when it changes."""

    def __call__(self, *, url: str, state: str) -> None:
        """Take in ``closed``, ``open`` or ``half-open``; must not call the pool."""
        ...


@dataclass
class _Member:
    """One server, its breaker, and how long it takes."""

    url: str
    expert: Expert
    breaker: CircuitBreaker
    latency_s: float = 0.0
    asked_at: float = -math.inf
    reported: str = ""

    def expected_s(self, now: float) -> float:
        """Return the running latency, less the longer ago it was measured."""
        return float(self.latency_s * 0.5 ** ((now - self.asked_at) / _HALF_LIFE_S))

    def took(self, seconds: float) -> None:
        known = self.latency_s > 0
        self.latency_s += (_LATEST if known else 1.0) * (seconds - self.latency_s)


@dataclass
class _Attempt(Generic[T]):
    """One call at one server."""

    member: _Member
    begun: float
    probe: bool
    future: Future[T] | None = None
    over: bool = False
    blamed: bool = False


@dataclass(eq=False)
class _Call(Generic[T]):
    """A call, at one server or more, until the first good reply."""

    ask: Callable[[Expert], Future[T]]
    #: False for a call whose length says nothing of the next one's: it is no evidence of health.
    counts: bool
    #: Whether a client has named the model: then its absence is no failure of a server.
    named: bool = False
    future: Future[T] = field(default_factory=Future)
    attempts: list[_Attempt[T]] = field(default_factory=list)
    settled: bool = False


class ExpertPool:
    """An expert that is served at several places, or at one.

    The call goes to the server with the least expected latency among those whose breakers let it
    through. If it fails there, or is not answered after `hedge_ms`, it goes to the next one too;
    the first good reply wins, and the others are cancelled. The first call to a server whose
    breaker has cooled down is a probe: another server is asked beside it, so that no token
    depends on it.

    Parameters
    ----------
    members : mapping of str to Expert
        The servers by their URLs, the preferred one first. They are closed with the pool.
    failures : int
        Failed or late calls in a row that open the breaker of a server.
    cooldown_s : float
        Seconds for which an open breaker lets nothing through.
    hedge_ms : float, optional
        Without it, a second server is asked only where the first has failed.
    loop : LoopThread, optional
        Keeps the time for `hedge_ms`, which needs one; closed with the pool.
    on_breaker : callable, optional
        Called as ``on_breaker(url=..., state=...)`` from any thread.
    model : str, optional
        The expert's own model. That a server does not have another one, which a client has named,
        says nothing of the server's health: one client's mistake must not end fusion for all.
    """

    def __init__(
        self,
        members: Mapping[str, Expert],
        *,
        failures: int,
        cooldown_s: float,
        hedge_ms: float | None = None,
        loop: LoopThread | None = None,
        on_breaker: OnBreaker | None = None,
        model: str | None = None,
    ) -> None:
        if not members or (hedge_ms is not None and loop is None):
            raise ValueError("A pool needs a server, and for hedging a loop that keeps the time.")
        self._members = [
            _Member(url, expert, CircuitBreaker(threshold=failures, cooldown_s=cooldown_s))
            for url, expert in members.items()
        ]
        self._hedge_s = hedge_ms / 1000 if hedge_ms is not None and len(members) > 1 else None
        self._loop = loop
        self._on_breaker = on_breaker
        self._model = model
        self._calls: dict[Future[Any], _Call[Any]] = {}
        # Guards the state of calls and breakers; never held while a server is waited for.
        self._lock = threading.Lock()
        with self._lock:
            for member in self._members:
                self._report(member)

    @property
    def context(self) -> int | None:
        """The most tokens of a text, where members know it of themselves."""
        known = [getattr(member.expert, "context", None) for member in self._members]
        return min((each for each in known if isinstance(each, int)), default=None)

    def start(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int = 1
    ) -> Future[ExpertReply]:
        """Begin a call; see `Expert.start`.

        The future holds `ExpertOpenError` at once if no server may be asked.
        """
        named = self._model is not None and model != self._model
        return self._begin(
            _Call(
                lambda expert: expert.start(prompts, model=model, steps=steps),
                counts=True,
                named=named,
            )
        )

    def score(self, prompt: Sequence[int], *, model: str) -> Future[float]:
        """Begin to score a text; see `Expert.score`.

        Its time and outcome say nothing of the health of a server.
        """
        return self._begin(_Call(lambda expert: expert.score(prompt, model=model), counts=False))

    def late(self, future: Future[ExpertReply]) -> None:
        """Note that a call of `start` has missed its deadline; it goes on, and counts as failed."""
        now = time.monotonic()
        with self._lock:
            call = self._calls.get(future)
            flying = [each for each in call.attempts if not each.over] if call else []
            if not flying or flying[0].blamed:
                return
            # The server that was asked first has had the most time.
            attempt = flying[0]
            attempt.blamed = True
            attempt.member.took(now - attempt.begun)
            attempt.member.breaker.failed(now)
            self._report(attempt.member)

    def close(self) -> None:
        """Close the servers' connections; calls in flight are cancelled."""
        for member in self._members:
            member.expert.close()
        if self._loop is not None:
            self._loop.close()

    def _begin(self, call: _Call[T]) -> Future[T]:
        attempt = self._send(call)
        if attempt is None:
            call.future.set_exception(
                ExpertOpenError("The expert has failed repeatedly and is left alone for a while.")
            )
            return call.future
        call.future.add_done_callback(lambda _: self._end(call))
        if attempt.probe:
            self._send(call)
        elif self._hedge_s is not None and call.counts:
            assert self._loop is not None
            self._loop.after(self._hedge_s, partial(self._hedge, call))
        return call.future

    def _hedge(self, call: _Call[Any]) -> None:
        if not call.settled and len(call.attempts) == 1:
            self._send(call)

    def _send(self, call: _Call[T]) -> _Attempt[T] | None:
        """Ask the best server that has not been asked yet; None if there is none."""
        now = time.monotonic()
        with self._lock:
            attempt = None if call.settled else self._choose(call, now)
            if attempt is None:
                return None
            call.attempts.append(attempt)
            self._calls[call.future] = call
        attempt.future = call.ask(attempt.member.expert)
        attempt.future.add_done_callback(partial(self._over, call, attempt))
        return attempt

    def _choose(self, call: _Call[T], now: float) -> _Attempt[T] | None:
        asked = [attempt.member for attempt in call.attempts]
        free = [member for member in self._members if member not in asked]
        for member in sorted(free, key=lambda member: member.expected_s(now)):
            if not call.counts and member.breaker.state != "closed":
                continue
            if member.breaker.allows(now):
                self._report(member)
                member.asked_at = now
                return _Attempt(member, now, probe=member.breaker.state == "half-open")
        return None

    def _over(self, call: _Call[T], attempt: _Attempt[T], future: Future[T]) -> None:
        """Take in how an attempt has ended: reply, error or cancellation."""
        error = None if future.cancelled() else future.exception()
        now = time.monotonic()
        with self._lock:
            attempt.over = True
            if call.counts and not (call.named and isinstance(error, NoSuchModelError)):
                self._judge(attempt, now, cancelled=future.cancelled(), failed=error is not None)
            waiting = call.settled or any(not each.over for each in call.attempts)
            wins = not call.settled and error is None and not future.cancelled()
            call.settled = call.settled or wins
        if wins:
            # False where it has been cancelled meanwhile.
            if call.future.set_running_or_notify_cancel():
                call.future.set_result(future.result())
        elif not waiting and (future.cancelled() or self._send(call) is None):
            self._fail(call, error)

    def _judge(self, attempt: _Attempt[T], now: float, *, cancelled: bool, failed: bool) -> None:
        member = attempt.member
        # One that was overtaken took longer than this, which is good enough to prefer the other.
        if not failed and not attempt.blamed:
            member.took(now - attempt.begun)
        if cancelled or attempt.blamed:
            return
        if failed:
            member.breaker.failed(now)
        else:
            member.breaker.succeeded()
        self._report(member)

    def _fail(self, call: _Call[T], error: BaseException | None) -> None:
        with self._lock:
            if call.settled:
                return
            call.settled = True
        if error is None:
            call.future.cancel()
        elif call.future.set_running_or_notify_cancel():
            call.future.set_exception(error)

    def _end(self, call: _Call[T]) -> None:
        """Cancel what is still on its way for a call that has its reply, or is not wanted."""
        with self._lock:
            call.settled = True
            self._calls.pop(call.future, None)
            losers = [each for each in call.attempts if not each.over and not each.probe]
        for attempt in losers:
            if attempt.future is not None:
                attempt.future.cancel()

    def _report(self, member: _Member) -> None:
        state = member.breaker.state
        if state != member.reported:
            member.reported = state
            if self._on_breaker is not None:
                self._on_breaker(url=member.url, state=state)
