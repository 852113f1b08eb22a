from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import pytest

from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.experts.calls import ExpertCall, ExpertCalls
from vllm_logits_processor.experts.pool import ExpertPool
from vllm_logits_processor.experts.reply import Continuation, ExpertError, ExpertReply

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


def test_a_failing_expert_is_left_alone(calls: ExpertCalls, expert: Scripted) -> None:
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
    calls = ExpertCalls(ExpertPool({"x": expert}, failures=100, cooldown_s=60))
    for _ in range(4):
        calls.settle(started(calls))
    assert calls.start([[1]], model="slm", deadline_s=1) == "busy"
    expert.futures[0].set_result(REPLY)
    assert isinstance(calls.start([[1]], model="slm", deadline_s=1), ExpertCall)
