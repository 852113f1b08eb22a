"""The expert's servers: calls go to the quickest healthy one, and to a second one if it is slow.

A circuit breaker skips a server that keeps failing.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from vllm_logits_processor.expert.breaker import CircuitBreaker
from vllm_logits_processor.expert.http import LoopThread
from vllm_logits_processor.expert.missing_models import KnownMissingError, MissingModels
from vllm_logits_processor.expert.protocol import (
    Expert,
    ExpertOpenError,
    ExpertReply,
    NoSuchModelError,
)

T = TypeVar("T")

#: Weight of the latest call in a server's running latency.
_LATEST = 0.2
#: Half-life, in seconds, of the remembered latency of an unused server: one that was slow once is
#: tried again.
_HALF_LIFE_S = 30.0


class OnBreaker(Protocol):
    """Receives the state of a server's breaker, initially and on every change."""

    def __call__(self, *, url: str, state: str) -> None:
        """Receive ``closed``, ``open`` or ``half-open``; must not call the pool."""
        ...


@dataclass
class _Server:
    """One server, its breaker and its latency."""

    url: str
    expert: Expert
    breaker: CircuitBreaker
    missing: MissingModels
    latency_s: float = 0.0
    asked_at: float = -math.inf
    reported: str = ""

    def expected_s(self, now: float) -> float:
        """Return the running latency, which decays with the time since it was measured."""
        return float(self.latency_s * 0.5 ** ((now - self.asked_at) / _HALF_LIFE_S))

    def took(self, seconds: float) -> None:
        known = self.latency_s > 0
        self.latency_s += (_LATEST if known else 1.0) * (seconds - self.latency_s)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Time limits of a call, in seconds from its start at a server.

    Attributes
    ----------
    quick_s : float
        A reply within this time shows that the server is healthy. A later one that is no failure is
        inconclusive: the prompt may have been long.
    fails_s : float
        Without a reply within this time the server has failed; the call continues.
    life_s : float
        After this time the call is cancelled.
    """

    quick_s: float = math.inf
    fails_s: float = math.inf
    life_s: float = math.inf


@dataclass(eq=False)
class _Attempt(Generic[T]):
    """One call at one server."""

    server: _Server
    begun: float
    probe: bool
    #: The breaker's period when it began.
    period: int
    patience: Patience
    future: Future[T] | None = None
    over: bool = False
    #: Whether its result has been counted for or against the server.
    judged: bool = False
    #: Whether it was cancelled because its server's breaker opened: another server may be tried.
    dropped: bool = False


@dataclass(eq=False)
class _Call(Generic[T]):
    """A call at one or more servers, until the first valid reply."""

    ask: Callable[[Expert], Future[T]]
    #: False for a call whose duration says nothing about the next one's: no evidence of health.
    counts: bool
    patience: Patience = Patience()
    #: The model, if a client named it: then its absence is no failure of a server.
    named: str | None = None
    future: Future[T] = field(default_factory=Future)
    attempts: list[_Attempt[T]] = field(default_factory=list)
    done: bool = False

    @property
    def probing(self) -> bool:
        """Whether the call has gone only to servers that are being probed."""
        return bool(self.attempts) and all(each.probe for each in self.attempts)

    @property
    def waits(self) -> bool:
        """Whether a useful reply may still arrive."""
        return any(not each.over and (not each.probe or self.probing) for each in self.attempts)


class ExpertPool:
    """An expert on one or more servers.

    A call goes to the server with the least expected latency among those whose breakers admit it.
    If it fails there, or is not answered within `hedge_ms`, it goes to the next one as well; the
    first valid reply wins, and the others are cancelled. The first call to a server whose breaker
    has cooled down is a probe: another server is called as well, so that no token depends on it.
    When a breaker opens, calls in flight to its server are cancelled and retried at another one if
    possible.

    Time limits are checked when the next call starts.

    Parameters
    ----------
    experts : mapping of str to Expert
        The servers by URL, the preferred one first. They are closed with the pool.
    failures : int
        Consecutive failed or late calls that open a server's breaker.
    cooldown_s : float
        Seconds for which an open breaker refuses calls.
    hedge_ms : float, optional
        Without it, a second server is called only if the first fails.
    loop : LoopThread, optional
        Timer for `hedge_ms`, which requires it; closed with the pool.
    on_breaker : callable, optional
        Called as ``on_breaker(url=..., state=...)`` from any thread.
    model : str, optional
        The expert's own model. A server that lacks a different model, named by a client, still
        counts as healthy: one client's mistake must not end fusion for all. It is not asked for
        that model again before `cooldown_s` have passed.
    """

    def __init__(
        self,
        experts: Mapping[str, Expert],
        *,
        failures: int,
        cooldown_s: float,
        hedge_ms: float | None = None,
        loop: LoopThread | None = None,
        on_breaker: OnBreaker | None = None,
        model: str | None = None,
    ) -> None:
        if not experts or (hedge_ms is not None and loop is None):
            raise ValueError("A pool needs a server, and for hedging a loop that keeps the time.")
        self._servers = [
            _Server(
                url,
                expert,
                CircuitBreaker(threshold=failures, cooldown_s=cooldown_s),
                MissingModels(remembered_s=cooldown_s),
            )
            for url, expert in experts.items()
        ]
        self._hedge_s = hedge_ms / 1000 if hedge_ms is not None and len(experts) > 1 else None
        self._loop = loop
        self._on_breaker = on_breaker
        self._model = model
        self._calls: dict[Future[Any], _Call[Any]] = {}
        self._in_flight: list[tuple[_Call[Any], _Attempt[Any]]] = []
        # Guards the state of calls and breakers; never held while waiting for a server.
        self._lock = threading.Lock()
        with self._lock:
            for server in self._servers:
                self._report(server)

    @property
    def context(self) -> int | None:
        """The most tokens of a text, if the experts report it."""
        known = [getattr(server.expert, "context", None) for server in self._servers]
        return min((each for each in known if isinstance(each, int)), default=None)

    @property
    def scores(self) -> bool:
        """Whether prompts can be scored, as far as the experts say."""
        return all(getattr(server.expert, "scores", True) for server in self._servers)

    def start(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        model: str,
        steps: int = 1,
        patience: Patience | None = None,
    ) -> Future[ExpertReply]:
        """Begin a call; see `Expert.start`.

        The future holds `ExpertOpenError` immediately if no server may be called; that is
        `KnownMissingError` if one has just said that it lacks the model.

        Parameters
        ----------
        prompts, model, steps
            See `Expert.start`.
        patience : Patience, optional
            By default a call may take any time.
        """
        return self._begin(
            _Call(
                lambda expert: expert.start(prompts, model=model, steps=steps),
                counts=True,
                named=self._named(model),
                patience=patience or Patience(),
            )
        )

    def probing(self, future: Future[ExpertReply]) -> bool:
        """Return whether a call of `start` has gone only to servers that are being probed."""
        with self._lock:
            call = self._calls.get(future)
            return call is not None and call.probing

    def score(self, prompt: Sequence[int], *, model: str) -> Future[float]:
        """Begin to score a text; see `Expert.score`.

        Its duration and outcome do not count for a server's health.
        """
        return self._begin(
            _Call(
                lambda expert: expert.score(prompt, model=model),
                counts=False,
                named=self._named(model),
            )
        )

    def renew(self, future: Future[ExpertReply], *, seconds: float) -> None:
        """Let a call of `start` fail if it is not answered within `seconds` from now."""
        now = time.monotonic()
        with self._lock:
            call = self._calls.get(future)
            for attempt in call.attempts if call else ():
                fails_s = min(now + seconds - attempt.begun, attempt.patience.life_s)
                attempt.patience = replace(attempt.patience, fails_s=fails_s)

    def close(self) -> None:
        """Close the servers' connections; calls in flight are cancelled."""
        for server in self._servers:
            server.expert.close()
        if self._loop is not None:
            self._loop.close()

    def _named(self, model: str) -> str | None:
        return None if self._model is None or model == self._model else model

    def _begin(self, call: _Call[T]) -> Future[T]:
        self.check_time_limits()
        attempt = self._send(call)
        if attempt is None:
            call.future.set_exception(self._nobody(call))
            return call.future
        call.future.add_done_callback(lambda _: self._end(call))
        while attempt is not None and call.probing:
            attempt = self._send(call)
        if self._hedge_s is not None and call.counts and len(call.attempts) == 1:
            assert self._loop is not None
            self._loop.after(self._hedge_s, partial(self._hedge, call))
        return call.future

    def _hedge(self, call: _Call[Any]) -> None:
        if not call.done and len(call.attempts) == 1:
            self._send(call)

    def _send(self, call: _Call[T]) -> _Attempt[T] | None:
        """Send the call to the best server not tried yet; return None if there is none."""
        now = time.monotonic()
        with self._lock:
            attempt = None if call.done else self._choose(call, now)
            if attempt is None:
                return None
            older = self._probes_before(attempt) if attempt.probe else []
            call.attempts.append(attempt)
            self._calls[call.future] = call
            self._in_flight.append((call, attempt))
        _cancel(older)
        attempt.future = call.ask(attempt.server.expert)
        attempt.future.add_done_callback(partial(self._ended, call, attempt))
        return attempt

    def _choose(self, call: _Call[T], now: float) -> _Attempt[T] | None:
        asked = [attempt.server for attempt in call.attempts]
        free = [server for server in self._servers if server not in asked]
        for server in sorted(free, key=lambda server: server.expected_s(now)):
            breaker = server.breaker
            if call.named is not None and server.missing.said(call.named, now) is not None:
                continue
            if not call.counts and breaker.state != "closed":
                continue
            if breaker.allows(now):
                self._report(server)
                server.asked_at = now
                probe = breaker.state == "half-open"
                return _Attempt(server, now, probe, breaker.period, call.patience)
        return None

    def _nobody(self, call: _Call[Any]) -> ExpertOpenError:
        """Return why no server may be called."""
        now = time.monotonic()
        with self._lock:
            for server in self._servers:
                said = None if call.named is None else server.missing.said(call.named, now)
                if said is not None:
                    return KnownMissingError(said)
        return _all_open()

    def _probes_before(self, attempt: _Attempt[Any]) -> list[_Attempt[Any]]:
        """Return the probes of a server that are too old to continue."""
        probes = [each for _, each in self._in_flight if each.probe]
        older = [each for each in probes if each.server is attempt.server][:-1]
        for each in older:
            each.judged = True
        return older

    def check_time_limits(self) -> None:
        """Count calls past `fails_s` as failures, and cancel those past `life_s`."""
        now = time.monotonic()
        with self._lock:
            ended = []
            for call, attempt in list(self._in_flight):
                taken = now - attempt.begun
                if call.counts and taken > attempt.patience.fails_s:
                    ended += self._judge(attempt, now, failed=True)
                if taken > attempt.patience.life_s:
                    ended.append(attempt)
        _cancel(ended)

    def _ended(self, call: _Call[T], attempt: _Attempt[T], future: Future[T]) -> None:
        """Process the end of an attempt: reply, error or cancellation."""
        error = None if future.cancelled() else future.exception()
        now = time.monotonic()
        with self._lock:
            attempt.over = True
            self._in_flight.remove((call, attempt))
            dropped: list[_Attempt[Any]] = []
            if call.named is not None and isinstance(error, NoSuchModelError):
                attempt.server.missing.note(call.named, error, now)
            elif call.counts:
                failed = error is not None or now - attempt.begun > attempt.patience.fails_s
                dropped = self._judge(attempt, now, failed=failed, cancelled=future.cancelled())
            wins = not call.done and error is None and not future.cancelled()
            call.done = call.done or wins
            waiting = call.done or call.waits
        _cancel(dropped)
        if wins:
            # False if it has been cancelled meanwhile.
            if call.future.set_running_or_notify_cancel():
                call.future.set_result(future.result())
        elif not waiting:
            self._continue(call, attempt, error, cancelled=future.cancelled())

    def _continue(
        self,
        call: _Call[T],
        attempt: _Attempt[T],
        error: BaseException | None,
        *,
        cancelled: bool,
    ) -> None:
        """Try the next server, or end the call; replies of probed servers are not awaited."""
        if not cancelled or attempt.dropped:
            following = self._send(call)
            while following is not None and following.probe:
                following = self._send(call)
            if following is not None:
                return
        self._fail(call, _all_open() if attempt.dropped else error)

    def _judge(
        self, attempt: _Attempt[Any], now: float, *, failed: bool, cancelled: bool = False
    ) -> list[_Attempt[Any]]:
        """Report an attempt to the server's breaker, once; return the attempts to cancel."""
        if attempt.judged:
            return []
        attempt.judged = True
        server, taken = attempt.server, now - attempt.begun
        quick, overdue = taken <= attempt.patience.quick_s, taken > attempt.patience.fails_s
        # An overtaken attempt took longer than this, which suffices to prefer the other server.
        if not attempt.dropped and (overdue or (quick and not failed)):
            server.took(taken)
        if attempt.period != server.breaker.period:
            return []
        if failed:
            server.breaker.failed(now)
        elif quick and not cancelled:
            server.breaker.succeeded()
        elif attempt.probe:
            server.breaker.inconclusive()
        self._report(server)
        if attempt.period == server.breaker.period or server.breaker.state == "closed":
            return []
        left = [each for _, each in self._in_flight if each.server is server]
        for each in left:
            each.dropped = True
        return left

    def _fail(self, call: _Call[T], error: BaseException | None) -> None:
        with self._lock:
            if call.done:
                return
            call.done = True
        if error is None:
            call.future.cancel()
        elif call.future.set_running_or_notify_cancel():
            call.future.set_exception(error)

    def _end(self, call: _Call[T]) -> None:
        """Cancel the remaining attempts of a call that has its reply or was cancelled."""
        with self._lock:
            call.done = True
            self._calls.pop(call.future, None)
            losers = [each for each in call.attempts if not each.over and not each.probe]
        _cancel(losers)

    def _report(self, server: _Server) -> None:
        state = server.breaker.state
        if state != server.reported:
            server.reported = state
            if self._on_breaker is not None:
                self._on_breaker(url=server.url, state=state)


def _cancel(attempts: Sequence[_Attempt[Any]]) -> None:
    """Cancel attempts; not under the lock, because their callbacks run immediately."""
    for attempt in attempts:
        if attempt.future is not None:
            attempt.future.cancel()


def _all_open() -> ExpertOpenError:
    return ExpertOpenError("The expert has failed repeatedly and is left alone for a while.")
