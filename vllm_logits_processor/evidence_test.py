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
