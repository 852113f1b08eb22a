import pytest

from flower_strategy.device_time import TimeSpent, summed, time_spent


def test_a_device_waits_for_the_slowest_that_trained() -> None:
    spent = time_spent([("a", 40.0, 10.0), ("b", 20.0, None), ("evaluated", None, None)])
    assert spent == {"a": TimeSpent(30.0, 10.0, 0.0), "b": TimeSpent(20.0, 0.0, 20.0)}
    assert spent["b"].shares() == (0.5, 0.0, 0.5)
    assert time_spent([]) == {}


def test_a_round_without_a_device_costs_it_nothing() -> None:
    total = summed([time_spent([("a", 4.0, 1.0), ("b", 8.0, 1.0)]), time_spent([("b", 6.0, 2.0)])])
    assert total == {"a": TimeSpent(3.0, 1.0, 4.0), "b": TimeSpent(11.0, 3.0, 0.0)}
    assert total["a"].whole == 8.0


def test_no_device_transports_longer_than_it_took() -> None:
    assert time_spent([("a", 4.0, 9.0)])["a"] == TimeSpent(0.0, 4.0, 0.0)
    assert TimeSpent().shares() == pytest.approx((0.0, 0.0, 0.0))
