"""Texts that are built to be slow: a megabyte of each is decided in linear time."""

from __future__ import annotations

import time

import pytest

from floe_plugins.gate import Decision, Gate

SMALL, LARGE = 125_000, 1_000_000

UNITS = {
    "digits": "7",
    "nested brackets": "([{<",
    "a long run with marks": "a.b-c_d+",
    "combining marks": "e\u0301\u0323",
}

# No time-out: the test measures how long an answer takes, not how soon it is abandoned.
GATE = Gate(max_chars=10_000_000, timeout_s=60)


def text_of(unit: str, size: int) -> str:
    return (unit * (size // len(unit) + 1))[:size]


@pytest.mark.usefixtures("others_frozen")
@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS.keys())
def test_a_megabyte_is_decided_in_linear_time(unit: str) -> None:
    def seconds(size: int) -> float:
        text = text_of(unit, size)
        started = time.process_time()
        assert not GATE.decide(text).failures
        return time.process_time() - started

    seconds(10_000)
    small, large = seconds(SMALL), seconds(LARGE)
    # Eight times the text; quadratic time would be a factor of 64. Half of that allows for other
    # load on the processor between the two.
    assert large < 32 * max(small, 0.02)
    assert large < 30


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS.keys())
def test_by_default_a_megabyte_is_local_at_once(unit: str) -> None:
    gate = Gate()
    text = text_of(unit, LARGE)
    started = time.monotonic()
    verdict = gate.decide(text)
    # A scan would take seconds.
    assert time.monotonic() - started < 0.5
    assert verdict.decision is Decision.LOCAL
    assert [failure.reason for failure in verdict.failures] == ["too long"]


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS.keys())
def test_by_default_the_longest_text_is_decided_within_the_time_out(unit: str) -> None:
    gate = Gate()
    text = text_of(unit, gate.max_chars)
    started = time.monotonic()
    verdict = gate.decide(text)
    # A scan that is cut off makes the text local; views are built before, in linear time.
    assert time.monotonic() - started < 20
    assert verdict.decision is Decision.LOCAL or verdict.scanned_all
