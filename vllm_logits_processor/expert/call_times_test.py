from __future__ import annotations

import math

import pytest

from vllm_logits_processor.expert.call_times import CallTimes


def test_nothing_is_waited_for_before_it_was_seen() -> None:
    times = CallTimes()
    assert times.wait_s(1) == times.wait_s(8) == 0.0
    assert times.last_steps == 0


def test_a_line_through_the_calls_says_what_others_take() -> None:
    times = CallTimes()
    for steps in (1, 32, 8, 16) * 30:
        times.observe_call(steps=steps, seconds=0.1 + 0.01 * (steps - 1))
    assert times.wait_s(1) == pytest.approx(0.1, rel=0.05)
    assert times.wait_s(20) == pytest.approx(0.29, rel=0.05)
    times.observe_host(0.08)
    assert times.wait_s(1) == pytest.approx(0.02, rel=0.2)
    times.observe_host(100.0)
    assert times.wait_s(20) == 0.0
    assert times.last_steps == 16


def test_newer_calls_count_more() -> None:
    times = CallTimes()
    for seconds in (0.1, 0.9):
        for steps in (1, 8) * 30:
            times.observe_call(steps=steps, seconds=seconds)
    assert times.wait_s(1) == pytest.approx(0.9, rel=0.02)


def test_what_longer_calls_take_is_forgotten_where_none_are_made() -> None:
    times = CallTimes()
    for steps in (1, 8) * 30:
        times.observe_call(steps=steps, seconds=0.1 * steps)
    assert times.wait_s(8) > 5 * times.wait_s(1)
    for _ in range(90):
        times.observe_call(steps=1, seconds=0.1)
    assert times.wait_s(8) < 1.5 * times.wait_s(1)


def test_a_reply_that_would_be_dropped_is_waited_for_in_vain() -> None:
    times = CallTimes(deadline_s=0.05)
    times.observe_call(steps=1, seconds=0.06)
    assert times.wait_s(1) == math.inf
