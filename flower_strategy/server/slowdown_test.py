import numpy as np
import pytest

from flower_strategy.server.slowdown import BAND, Pace


def after(pace: Pace, *ratios: float) -> Pace:
    for ratio in ratios:
        pace = pace.observed(ratio)
    return pace


def test_a_device_that_is_twice_as_slow_counts_at_once() -> None:
    assert after(Pace(), 3.0).factor == pytest.approx(3.0)


def test_a_smaller_slowdown_counts_after_two_rounds() -> None:
    once = after(Pace(), 1.5)
    assert once.factor == 1.0
    assert after(once, 1.6).factor == pytest.approx(np.sqrt(1.5 * 1.6))


def test_a_device_that_recovers_is_taken_at_its_profile_again() -> None:
    assert after(Pace(3.0), 1.02).factor == 3.0
    assert after(Pace(3.0), 1.02, 0.97).factor == 1.0


def test_one_odd_round_among_usual_ones_changes_nothing() -> None:
    assert after(Pace(), 1.6, 1.0, 1.6, 0.7, 1.7, 0.6) == Pace(1.0, (0.6,))


def test_noise_within_the_band_never_moves_the_pace() -> None:
    generator = np.random.default_rng(0)
    pace = Pace(1.4)
    for ratio in generator.uniform(1.4 / BAND, 1.4 * BAND, 500):
        pace = pace.observed(float(ratio))
    assert pace.factor == 1.4


def test_a_late_reply_doubles_the_pace() -> None:
    assert Pace(1.5).late().factor == 3.0


def test_no_observation_makes_the_pace_endless_or_zero() -> None:
    pace = Pace()
    for _ in range(2000):
        pace = pace.late()
    assert pace.factor == 1000.0
    assert after(Pace(), 1e300).factor == 1000.0
    assert after(Pace(), 0.0, 0.0).factor == pytest.approx(0.001)
