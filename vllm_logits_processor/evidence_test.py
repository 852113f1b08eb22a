from __future__ import annotations

import math

import pytest

from vllm_logits_processor.evidence import Evidence


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
