from __future__ import annotations

from vllm_logits_processor.experts.breaker import CircuitBreaker


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
    assert not breaker.allows(12)
    assert breaker.allows(21)
    breaker.succeeded()
    assert breaker.allows(21.1)
    assert breaker.state == "closed"


def test_a_probe_that_is_never_settled_is_not_the_last() -> None:
    breaker = CircuitBreaker(threshold=1, cooldown_s=10)
    breaker.failed(0)
    assert breaker.allows(10)
    assert breaker.allows(20)
