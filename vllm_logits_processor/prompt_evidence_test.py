"""Scores that come late, or not at all; the servers that give them are tested in experts/."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from vllm_logits_processor.expert.reply import ExpertError
from vllm_logits_processor.prompt_evidence import PromptScores


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
    """Do as an expert does that is closed, or whose plugin drops the call."""
    future.cancel()


@pytest.mark.parametrize("end", [refuse, cancel])
def test_a_model_that_does_not_answer_gives_none(end: Callable[[Future[float]], None]) -> None:
    one = scores()
    end(one.host)
    one.expert.set_result(-1.0)
    found = one.evidence()
    assert found is not None
    assert math.isnan(found)
