import pytest

from flower_strategy.ranks.cost import StepCost, memory_needed, predicted_seconds
from flower_strategy.testing.models import make_profile

MB = 1_000_000


def test_the_cost_of_a_step_is_fitted_to_two_ranks() -> None:
    cost = StepCost.fit(make_profile(step_ranks=(4, 32), step_seconds=(1.2, 2.6)))
    assert cost.at(4) == pytest.approx(1.2)
    assert cost.at(32) == pytest.approx(2.6)
    assert cost.at(16) == pytest.approx(1.8)


def test_noise_never_makes_higher_ranks_cheaper() -> None:
    assert StepCost.fit(make_profile(step_seconds=(2.0, 1.0))) == StepCost(1.5, 0.0)
    assert StepCost.fit(make_profile(step_ranks=(8, 8), step_seconds=(1.0, 1.2))).slope == 0.0
    steep = StepCost.fit(make_profile(step_ranks=(4, 8), step_seconds=(1.0, 4.0)))
    assert steep.base == 0.0
    assert steep.at(8) == pytest.approx(4.0)


def test_the_predicted_round_is_download_steps_and_upload() -> None:
    profile = make_profile(
        step_ranks=(1, 11), step_seconds=(1.0, 2.0), upload_per_rank=MB, bandwidth=0.5 * MB
    )
    assert predicted_seconds(profile, 6, local_steps=10) == pytest.approx(1.5 + 10 * 1.5 + 12)
    slower = predicted_seconds(profile, 6, local_steps=10, slowdown=2.0)
    assert slower == pytest.approx(1.5 + 2 * 10 * 1.5 + 12)
    assert memory_needed(make_profile(fixed_bytes=100, bytes_per_rank=7), 3) == 121


def test_what_comes_down_at_a_higher_rank_takes_memory_too() -> None:
    profile = make_profile(fixed_bytes=100, bytes_per_rank=48, upload_per_rank=1, download_rank=512)
    assert memory_needed(profile, 4) == 100 + 4 * 48 + 508 * 16
    assert memory_needed(profile, 512) == 100 + 512 * 48
    needed = [memory_needed(profile, rank) for rank in (4, 8, 512, 1024)]
    assert needed == sorted(needed)
