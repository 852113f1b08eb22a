from __future__ import annotations

import pytest

from vllm_logits_processor.expert.lookahead import LookAhead


def test_steps_grow_while_the_text_follows_and_shrink_when_it_departs() -> None:
    ahead = LookAhead(most=8)
    for _ in range(40):
        ahead.observe(followed=True)
    assert ahead.steps == 8
    assert ahead.worth_asking_ahead
    for _ in range(40):
        ahead.observe(followed=False)
    assert ahead.steps == 1
    assert not ahead.worth_asking_ahead


@pytest.mark.parametrize("followed", [0.0, 0.5, 1.0])
def test_one_is_the_least_and_the_limit_is_the_most(followed: float) -> None:
    assert LookAhead(most=1, followed=followed).steps == 1
    assert 1 <= LookAhead(most=4, followed=followed).steps <= 4


def test_nothing_is_asked_ahead_where_the_limit_is_one() -> None:
    assert not LookAhead(most=1, followed=1.0).worth_asking_ahead
