"""Several real servers of one expert, on loopback, that are slow, silent or broken."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

from vllm_logits_processor.expert.http import CompletionsExpert, LoopThread
from vllm_logits_processor.expert.pool import ExpertPool, Patience
from vllm_logits_processor.expert.protocol import (
    ExpertError,
    ExpertOpenError,
    ExpertReply,
    NoSuchModelError,
)
from vllm_logits_processor.testing.fake_expert import FakeExpert, completion, fake_expert


def saying(token: int) -> Callable[[dict[str, Any]], bytes]:
    def answer(body: dict[str, Any]) -> bytes:
        if "prompt_logprobs" in body:
            return b'{"choices": [{"prompt_logprobs": [null, {"2": {"logprob": -1.0}}]}]}'
        return completion(*([{token: math.log(0.5)}] for _ in body["prompt"]))

    return answer


class Servers:
    """Two servers and a pool of them; the token shows which one has answered."""

    def __init__(self, first: FakeExpert, second: FakeExpert, **options: Any) -> None:
        self.first, self.second = first, second
        self.states: list[tuple[str, str]] = []
        loop = LoopThread()
        self.pool = ExpertPool(
            {server.url: client_of(server, loop) for server in (first, second)},
            loop=loop,
            on_breaker=self._note,
            **{"failures": 2, "cooldown_s": 60.0, **options},
        )

    def _note(self, *, url: str, state: str) -> None:
        self.states.append(("first" if url == self.first.url else "second", state))

    def ask(self) -> int:
        return token_of(self.pool.start([[1]], model="slm").result(timeout=5))

    @property
    def asked(self) -> tuple[int, int]:
        return len(self.first.requests), len(self.second.requests)


def client_of(server: FakeExpert, loop: LoopThread) -> CompletionsExpert:
    return CompletionsExpert(
        url=server.url, top_k=1, vocabulary=10, end_ids=np.empty(0, dtype=np.int32), loop=loop
    )


def token_of(reply: ExpertReply) -> int:
    return int(reply.continuations[0].tokens[0])


@contextmanager
def servers(**options: Any) -> Iterator[Servers]:
    with ExitStack() as stack:
        first, second = (stack.enter_context(fake_expert(saying(token))) for token in (1, 2))
        both = Servers(first, second, **options)
        stack.callback(both.pool.close)
        yield both


def test_the_quicker_server_is_asked() -> None:
    with servers() as both:
        both.first.delay_s = 0.15
        # Each is tried once, the preferred one first.
        assert [both.ask() for _ in range(5)] == [1, 2, 2, 2, 2]
        assert both.states == [("first", "closed"), ("second", "closed")]


def test_a_failing_server_costs_no_call_and_is_skipped() -> None:
    with servers() as both:
        both.first.status = 500
        assert [both.ask() for _ in range(6)] == [2] * 6
        assert both.asked[0] <= 2
        both.second.status = 500
        for _ in range(4):
            with pytest.raises(ExpertError):
                both.ask()
        assert set(both.states[2:]) == {("first", "open"), ("second", "open")}
        asked = both.asked
        with pytest.raises(ExpertOpenError, match="left alone"):
            both.ask()
        assert both.asked == asked


def test_a_model_that_a_client_has_named_and_nobody_has_opens_no_breaker() -> None:
    with servers(model="slm") as both:
        both.first.status = both.second.status = 404
        for _ in range(6):
            with pytest.raises(NoSuchModelError, match="HTTP 404"):
                both.pool.start([[1]], model="mistyped").result(timeout=5)
        # They have said so, and are not asked at each token.
        assert both.asked == (1, 1)
        assert set(both.states) == {("first", "closed"), ("second", "closed")}
        # A missing model of the expert's own does count.
        for _ in range(2):
            with pytest.raises(NoSuchModelError):
                both.ask()
        assert {("first", "open"), ("second", "open")} <= set(both.states)


def test_a_model_that_one_server_lacks_is_asked_of_the_other_and_again_after_the_cooldown() -> None:
    with servers(model="slm", cooldown_s=0.5) as both:
        both.first.status = 404
        ask = partial(both.pool.start, [[1]], model="new")
        assert [token_of(ask().result(timeout=5)) for _ in range(3)] == [2, 2, 2]
        assert both.asked == (1, 3)
        both.second.status = 404
        with pytest.raises(NoSuchModelError):
            ask().result(timeout=5)
        # No server is called: this is no failure to be logged for each token.
        with pytest.raises(ExpertOpenError, match="HTTP 404"):
            ask().result(timeout=5)
        with pytest.raises(ExpertOpenError, match="HTTP 404"):
            both.pool.score([1, 2], model="new").result(timeout=5)
        assert both.asked == (1, 4)
        both.first.status = both.second.status = 200
        # Other models are asked for meanwhile.
        assert both.ask() in (1, 2)
        time.sleep(0.6)
        assert token_of(ask().result(timeout=5)) in (1, 2)


def test_a_slow_server_is_hedged_and_the_first_reply_wins() -> None:
    with servers(hedge_ms=150.0) as both:
        both.first.delay_s = 3.0
        begun = time.monotonic()
        assert both.ask() == 2
        assert 0.15 < time.monotonic() - begun < 2.5
        assert both.asked == (1, 1)
        # From now on the quick one is called first.
        assert [both.ask() for _ in range(3)] == [2, 2, 2]
        assert both.asked[1] == 4


def test_a_quick_server_is_not_hedged() -> None:
    with servers(hedge_ms=500.0) as both:
        assert [both.ask() for _ in range(5)].count(1) >= 1
        time.sleep(0.6)
        assert sum(both.asked) == 5


def test_a_late_call_counts_against_its_server_though_it_is_answered_later() -> None:
    with servers(failures=1) as both:
        both.first.delay_s = 0.3
        future = both.pool.start([[1]], model="slm", patience=Patience(fails_s=0.1))
        assert token_of(future.result(timeout=5)) == 1
        assert both.states[-1] == ("first", "open")
        assert both.ask() == 2


def test_a_call_continues_at_another_server_when_its_own_is_skipped() -> None:
    with servers(failures=1) as both:
        both.first.delay_s = 3.0
        reading = both.pool.start([[1]], model="slm", patience=Patience(fails_s=60))
        late = both.pool.start([[1]], model="slm", patience=Patience(fails_s=0.5))
        time.sleep(0.7)
        both.second.delay_s = 0.0
        assert both.ask() == 2
        assert both.states[-1] == ("first", "open")
        assert {token_of(each.result(timeout=2)) for each in (reading, late)} == {2}


def test_a_probe_is_asked_beside_a_healthy_server() -> None:
    with servers(failures=1, cooldown_s=0.2) as both:
        both.first.status = 500
        assert both.ask() == 2
        assert both.states[-1] == ("first", "open")
        both.first.status = 200
        time.sleep(0.25)
        deadline = time.monotonic() + 5
        while both.states[-1] != ("first", "closed") and time.monotonic() < deadline:
            assert both.ask() in (1, 2)
            time.sleep(0.05)
        assert both.states[-2:] == [("first", "half-open"), ("first", "closed")]


def test_scores_go_to_a_healthy_server_and_prove_nothing() -> None:
    with servers(failures=1) as both:
        both.first.status = 500
        assert both.pool.score([1, 2], model="slm").result(timeout=5) == -1.0
        assert both.asked == (1, 1)
        assert ("first", "open") not in both.states


def test_a_cancelled_call_ends_its_requests() -> None:
    with servers() as both:
        both.first.delay_s = 0.5
        future = both.pool.start([[1]], model="slm")
        assert future.cancel()
        assert both.ask() == 2
        assert both.states == [("first", "closed"), ("second", "closed")]


def test_closing_ends_what_is_on_its_way() -> None:
    with servers() as both:
        # Longer than a busy machine takes from one line to the next.
        both.first.delay_s = 4.0
        future = both.pool.start([[1]], model="slm")
        begun = time.monotonic()
        both.pool.close()
        assert time.monotonic() - begun < both.first.delay_s
        assert future.cancelled() or isinstance(future.exception(timeout=5), ExpertError)
