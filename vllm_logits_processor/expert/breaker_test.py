from __future__ import annotations

from vllm_logits_processor.expert.breaker import CircuitBreaker


def test_opens_after_failures_in_a_row_only() -> None:
    breaker = CircuitBreaker(threshold=2, cooldown_s=10)
    breaker.failed(0)
    breaker.succeeded()
    breaker.failed(1)
    assert breaker.allows(1)
    assert breaker.state == "closed"
    breaker.failed(2)
    assert not breaker.allows(3)
    assert breaker.state == "open"


def test_one_probe_after_the_cooldown_decides() -> None:
    breaker = CircuitBreaker(threshold=1, cooldown_s=10)
    breaker.failed(0)
    assert not breaker.allows(9.9)
    assert breaker.allows(10)
    assert breaker.state == "half-open"
    assert not breaker.allows(10.1)
    breaker.failed(11)
    assert breaker.state == "open"
    assert not breaker.allows(19.9)
    assert breaker.allows(20)
    breaker.succeeded()
    assert breaker.allows(20.1)
    assert breaker.state == "closed"


def test_a_probe_that_hangs_adds_nothing_to_the_cooldown() -> None:
    breaker = CircuitBreaker(threshold=1, cooldown_s=10)
    breaker.failed(0)
    assert breaker.allows(10)
    assert not breaker.allows(19)
    # It still hangs, and the next one may begin.
    assert breaker.allows(20)
    assert not breaker.allows(21)
    # It fails at last, which does not affect what began after it.
    breaker.failed(29)
    assert breaker.allows(30)


def test_a_probe_that_says_nothing_is_followed_by_another() -> None:
    breaker = CircuitBreaker(threshold=1, cooldown_s=10)
    breaker.failed(0)
    assert breaker.allows(10)
    breaker.inconclusive()
    assert breaker.state == "half-open"
    assert breaker.allows(11)
    breaker.failed(12)
    assert not breaker.allows(20.9)
    assert breaker.allows(21)


def test_a_period_begins_when_it_opens_and_when_it_closes() -> None:
    breaker = CircuitBreaker(threshold=2, cooldown_s=10)
    periods = []
    for change in (breaker.succeeded, lambda: breaker.failed(0), lambda: breaker.failed(1)):
        change()
        periods.append(breaker.period)
    assert breaker.allows(11)
    breaker.failed(12)
    periods.append(breaker.period)
    breaker.succeeded()
    assert [*periods, breaker.period] == [0, 0, 1, 1, 2]
