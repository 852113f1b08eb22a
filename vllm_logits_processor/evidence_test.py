from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

import pytest

from vllm_logits_processor.evidence import Evidence, PromptScores, context_after
from vllm_logits_processor.expert.protocol import ExpertError


def test_running_average_of_minus_log_m() -> None:
    evidence = Evidence(decay=0.5)
    evidence.observe(math.exp(-1.0))
    assert evidence.value == pytest.approx(0.5)
    evidence.observe(math.exp(2.0))
    assert evidence.value == pytest.approx(0.5 * 0.5 - 0.5 * 2.0)


@pytest.mark.parametrize("factor", [0.0, 1e-300, 1e300])
def test_one_token_cannot_decide_for_ever(factor: float) -> None:
    evidence = Evidence()
    evidence.observe(factor)
    assert abs(evidence.value) <= 0.2 + 1e-9


@pytest.mark.parametrize("late_by", [0, 1, 7])
def test_the_prompts_evidence_may_come_late(late_by: int) -> None:
    early, late = Evidence(), Evidence()
    early.begin(-0.7)
    for place in range(12):
        if place == late_by:
            late.begin(-0.7)
        early.observe(0.5 + place)
        late.observe(0.5 + place)
    assert late.value == pytest.approx(early.value)
    assert late.prompt == early.prompt == -0.7


def test_an_unknown_prompt_changes_nothing_and_an_absurd_one_little() -> None:
    evidence = Evidence()
    evidence.begin(math.nan)
    assert evidence == Evidence()
    evidence.begin(-math.inf)
    assert evidence.value == -10.0


def test_a_context_has_its_own_evidence_as_it_becomes_known() -> None:
    evidence = Evidence()
    for _ in range(200):
        evidence.follow(b"a ")
        evidence.observe(math.exp(-1.0))
        evidence.follow(b"word")
        evidence.observe(math.exp(1.0))
    evidence.follow(b" ")
    after_space = evidence.value
    evidence.follow(b"x")
    assert after_space > 0.5
    assert evidence.value < -0.5
    # No digit has been observed: the average over all tokens stands in.
    evidence.follow(b"7")
    assert evidence.value == evidence.overall
    assert abs(evidence.overall) < 0.1


def test_few_tokens_of_a_context_say_little() -> None:
    evidence = Evidence()
    evidence.follow(b" ")
    evidence.observe(math.exp(-1.0))
    assert 0 < evidence.value < 0.1


def test_only_tokens_that_are_known_count() -> None:
    """A different future must not change earlier values."""
    known = [0.5, 2.0, 0.0, 1.0]
    values = []
    for planted in (1e-9, 1e9):
        evidence = Evidence()
        seen = []
        for factor in [*known, planted]:
            seen.append(evidence.value)
            evidence.observe(factor)
            evidence.follow(b"word")
        values.append(seen)
    assert values[0] == values[1]


def test_a_copy_is_independent() -> None:
    evidence = Evidence()
    evidence.follow(b" ")
    copy = replace(evidence)
    copy.observe(0.1)
    assert evidence.value == 0.0 < copy.value
    assert evidence.sums != copy.sums


@pytest.mark.parametrize(
    ("byte", "context"),
    [(b"a", 0), (b"Z", 0), (b"\xc3", 0), (b" ", 1), (b"\n", 1), (b"7", 2), (b".", 3)],
)
def test_contexts(byte: bytes, context: int) -> None:
    assert context_after(byte[0]) == context


def scores() -> PromptScores:
    return PromptScores(host=Future(), expert=Future(), tokens=10)


def test_nothing_is_known_until_both_have_answered() -> None:
    both = scores()
    assert both.evidence() is None
    both.host.set_result(-20.0)
    assert both.evidence() is None
    both.expert.set_result(-35.0)
    assert both.evidence() == pytest.approx(1.5)


def refuse(future: Future[float]) -> None:
    future.set_exception(ExpertError("The host is busy."))


def cancel(future: Future[float]) -> None:
    """End a call as a closed expert does, or a plugin that drops it."""
    future.cancel()


@pytest.mark.parametrize("end", [refuse, cancel])
def test_a_model_that_does_not_answer_gives_none(end: Callable[[Future[float]], None]) -> None:
    one = scores()
    end(one.host)
    one.expert.set_result(-1.0)
    found = one.evidence()
    assert found is not None
    assert math.isnan(found)
