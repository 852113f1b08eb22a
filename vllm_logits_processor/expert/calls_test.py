from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.expert.calls import ExpertCall, ExpertCalls
from vllm_logits_processor.expert.http import CompletionsExpert
from vllm_logits_processor.expert.pool import ExpertPool
from vllm_logits_processor.expert.protocol import Continuation, ExpertError, ExpertReply
from vllm_logits_processor.testing.fake_expert import completion, fake_expert

REPLY = ExpertReply(
    continuations=(
        Continuation(
            tokens=np.array([1]),
            top=ExpertTopK(token_ids=np.array([[1]]), logprobs=np.array([[-1.0]])),
        ),
    ),
    sent_bytes=1,
    received_bytes=1,
)


class Scripted:
    """An expert whose futures the test completes; the real one is tested in its own file."""

    def __init__(self) -> None:
        self.futures: list[Future[ExpertReply]] = []
        self.steps: list[int] = []

    def start(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int = 1
    ) -> Future[ExpertReply]:
        self.steps.append(steps)
        self.futures.append(Future())
        return self.futures[-1]

    def score(self, prompt: Sequence[int], *, model: str) -> Future[float]:
        return Future()

    def close(self) -> None:
        self.futures.clear()


@pytest.fixture
def expert() -> Scripted:
    return Scripted()


@pytest.fixture
def calls(expert: Scripted) -> ExpertCalls:
    return ExpertCalls(ExpertPool({"x": expert}, failures=2, cooldown_s=60))


def started(calls: ExpertCalls, deadline_s: float = 0.0) -> ExpertCall:
    call = calls.start([[1]], model="slm", deadline_s=deadline_s)
    assert isinstance(call, ExpertCall)
    return call


def test_an_answer_before_the_deadline(calls: ExpertCalls, expert: Scripted) -> None:
    call = started(calls, deadline_s=5)
    expert.futures[0].set_result(REPLY)
    assert calls.settle(call) == "answered"


def test_a_late_answer_is_dropped_and_stays_dropped(calls: ExpertCalls, expert: Scripted) -> None:
    call = started(calls)
    assert calls.settle(call) == "late"
    expert.futures[0].set_result(REPLY)
    assert calls.settle(call) == "late"


def test_waiting_ends_at_the_deadline(calls: ExpertCalls) -> None:
    call = started(calls, deadline_s=0.1)
    begun = time.monotonic()
    assert calls.settle(call) == "late"
    assert 0.05 < time.monotonic() - begun < 1.0


def test_a_failing_expert_is_skipped(calls: ExpertCalls, expert: Scripted) -> None:
    for _ in range(2):
        call = started(calls)
        expert.futures[-1].set_exception(ExpertError("down"))
        assert calls.settle(call) == "failed"
    assert calls.start([[1]], model="slm", deadline_s=1) == "open"


def test_settling_for_several_streams_counts_one_failure(calls: ExpertCalls) -> None:
    call = started(calls)
    assert [calls.settle(call) for _ in range(5)] == ["late"] * 5
    assert isinstance(calls.start([[1]], model="slm", deadline_s=1), ExpertCall)


def test_late_calls_do_not_pile_up(expert: Scripted) -> None:
    """Each request may name a different model, which may never be requested again."""
    calls = ExpertCalls(ExpertPool({"x": expert}, failures=100, cooldown_s=60))
    for number in range(12):
        call = calls.start([[1]], model=f"user-{number}", deadline_s=0.0)
        assert isinstance(call, ExpertCall)
        assert calls.settle(call) == "late"
    started(calls, deadline_s=5)
    assert [future.cancelled() for future in expert.futures] == [True] * 4 + [False] * 9
    for future in expert.futures[4:]:
        future.set_result(REPLY)
    started(calls)
    assert not calls._unawaited


def test_a_first_call_is_waited_for_no_longer_and_lives_on(expert: Scripted) -> None:
    reported: list[str] = []
    pool = ExpertPool({"x": expert}, failures=1, cooldown_s=60)
    calls = ExpertCalls(pool, on_settled=lambda *, outcome, **_: reported.append(outcome))
    call = calls.start([[1]], model="slm", deadline_s=0.02, life_s=60, kind="first")
    assert isinstance(call, ExpertCall)
    begun = time.monotonic()
    assert [calls.settle(call) for _ in range(3)] == ["reading"] * 3
    assert time.monotonic() - begun < 1.0
    assert reported == []
    # The server has not failed: it must read the prompt.
    started(calls, deadline_s=5)
    expert.futures[0].set_result(REPLY)
    assert calls.settle(call) == "answered"
    assert reported == ["answered"]


def test_a_first_call_is_given_up_at_the_end_of_its_life(expert: Scripted) -> None:
    calls = ExpertCalls(ExpertPool({"x": expert}, failures=1, cooldown_s=60))
    call = calls.start([[1]], model="slm", deadline_s=0.01, life_s=0.03, kind="first")
    assert isinstance(call, ExpertCall)
    assert calls.settle(call) == "reading"
    time.sleep(0.03)
    assert calls.settle(call) == "late"
    assert calls.start([[1]], model="slm", deadline_s=5) == "open"
    assert expert.futures[0].cancelled()


def test_first_calls_do_not_pile_up(expert: Scripted) -> None:
    calls = ExpertCalls(ExpertPool({"x": expert}, failures=100, cooldown_s=60))

    def first() -> ExpertCall | str:
        return calls.start([[1]], model="slm", deadline_s=0.0, life_s=60, kind="first")

    assert all(isinstance(first(), ExpertCall) for _ in range(8))
    assert first() == "busy"
    # Texts that the expert has read continue.
    assert isinstance(started(calls), ExpertCall)
    expert.futures[0].set_result(REPLY)
    assert isinstance(first(), ExpertCall)


def test_first_calls_that_are_never_answered_end_and_count(expert: Scripted) -> None:
    """No other call starts meanwhile, by which the pool would find them late."""
    calls = ExpertCalls(ExpertPool({"x": expert}, failures=5, cooldown_s=0.2))

    def first() -> ExpertCall | str:
        return calls.start([[1]], model="slm", deadline_s=0.0, life_s=0.1, kind="first")

    lost = [first() for _ in range(8)]
    assert first() == "busy"
    time.sleep(0.15)
    assert first() == "open"
    assert all(isinstance(call, ExpertCall) and call.future.done() for call in lost)
    time.sleep(0.25)
    # The expert is asked again, by a probe.
    assert isinstance(first(), ExpertCall)
    assert len(expert.futures) == 9


def test_steps_are_passed_on(calls: ExpertCalls, expert: Scripted) -> None:
    calls.start([[1]], model="slm", deadline_s=1, steps=7)
    assert expert.steps == [7]


def test_a_cancelled_call_has_failed(
    calls: ExpertCalls, expert: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    call = started(calls)
    call.future.cancel()
    assert calls.settle(call) == "failed"
    assert "The call was cancelled. The host goes on alone" in caplog.text


def test_a_call_that_was_late_for_one_stream_may_be_in_time_for_another(
    expert: Scripted,
) -> None:
    reported: list[str] = []
    pool = ExpertPool({"x": expert}, failures=100, cooldown_s=60)
    calls = ExpertCalls(pool, on_settled=lambda *, outcome, **_: reported.append(outcome))
    call = started(calls)
    assert calls.settle(call) == "late"
    calls.renew(call, deadline_s=5)
    expert.futures[0].set_result(REPLY)
    assert calls.settle(call) == "answered"
    # Once as a call, and once for the bytes that arrived late.
    assert reported == ["late", "dropped"]


def test_abandoned_calls_are_reported_when_they_end(expert: Scripted) -> None:
    reported: list[tuple[str, int]] = []
    pool = ExpertPool({"x": expert}, failures=100, cooldown_s=60)
    calls = ExpertCalls(
        pool, on_settled=lambda *, outcome, prompts, **_: reported.append((outcome, prompts))
    )
    left = [started(calls) for _ in range(4)]
    for call in left:
        calls.abandon(call)
        calls.abandon(call)
    assert reported == []
    assert calls.crowded
    expert.futures[0].set_result(REPLY)
    expert.futures[1].set_exception(ExpertError("down"))
    assert not calls.crowded
    assert reported == [("answered", 1), ("failed", 1)]
    # Another stream of the same call still waits for it.
    assert calls.settle(left[2]) == "late"
    expert.futures[2].set_result(REPLY)
    assert reported[2:] == [("late", 1), ("dropped", 0)]


def test_nothing_is_kept_of_abandoned_calls_that_have_ended(expert: Scripted) -> None:
    """Without look-ahead nobody asks whether they are many."""
    calls = ExpertCalls(ExpertPool({"x": expert}, failures=100, cooldown_s=60))
    for _ in range(6):
        call = calls.start([[1]], model="slm", deadline_s=0.0, life_s=60, kind="first")
        assert isinstance(call, ExpertCall)
        assert calls.settle(call) == "reading"
        calls.abandon(call)
        calls.abandon(call)
    assert len(calls._abandoned) == 6
    for place, future in enumerate(expert.futures):
        future.cancel() if place % 2 else future.set_result(REPLY)
    assert len(calls._abandoned) == 0


def test_every_call_is_reported_once_and_the_bytes_of_a_late_one_when_it_ends(
    expert: Scripted,
) -> None:
    reported: list[tuple[str, int, int, int]] = []

    def note(
        *, outcome: str, seconds: float, prompts: int, sent_bytes: int, received_bytes: int
    ) -> None:
        assert 0 <= seconds < 5
        reported.append((outcome, prompts, sent_bytes, received_bytes))

    calls = ExpertCalls(ExpertPool({"x": expert}, failures=100, cooldown_s=60), on_settled=note)
    good, late, bad = (started(calls, deadline_s=0.01) for _ in range(3))
    expert.futures[0].set_result(REPLY)
    expert.futures[2].set_exception(ExpertError("down"))
    for call in (good, late, bad, good, late):
        calls.settle(call)
    assert reported == [("answered", 1, 1, 1), ("late", 1, 0, 0), ("failed", 1, 0, 0)]
    expert.futures[1].set_result(REPLY)
    assert reported[3:] == [("dropped", 0, 1, 1)]


def test_a_late_reply_of_a_real_server_does_not_disturb_the_next_step() -> None:
    """Each reply holds the length of its text, so a reply given to the wrong call would show."""

    def lengths(body: dict[str, Any]) -> bytes:
        return completion(*([{len(prompt): math.log(0.5)}] for prompt in body["prompt"]))

    with fake_expert(lengths) as server:
        client = CompletionsExpert(
            url=server.url, top_k=1, vocabulary=100, end_ids=np.empty(0, dtype=np.int32)
        )
        calls = ExpertCalls(ExpertPool({server.url: client}, failures=100, cooldown_s=60))
        outcomes = []
        for length in range(1, 13):
            server.delay_s = 0.25 if length % 3 == 1 else 0.0
            call = calls.start([[9] * length], model="slm", deadline_s=0.1 if length % 3 else 5.0)
            assert isinstance(call, ExpertCall)
            outcomes.append(calls.settle(call))
            if outcomes[-1] == "answered":
                (said,) = call.future.result().continuations
                assert said.tokens.tolist() == [length]
        client.close()
    assert outcomes[::3] == ["late"] * 4
    assert outcomes[2::3] == ["answered"] * 4
