import pytest

from flower_strategy.profiles_test import make_profile
from flower_strategy.ranks import DeadlinePolicy, StepCost, memory_needed, predicted_seconds

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


def test_the_predicted_round_is_steps_and_upload() -> None:
    profile = make_profile(
        step_ranks=(1, 11), step_seconds=(1.0, 2.0), upload_per_rank=MB, bandwidth=0.5 * MB
    )
    assert predicted_seconds(profile, 6, local_steps=10) == pytest.approx(10 * 1.5 + 12)
    assert memory_needed(make_profile(fixed_bytes=100, bytes_per_rank=7), 3) == 121


def test_the_largest_rank_within_the_deadline_is_taken() -> None:
    profile = make_profile(step_seconds=(1.0, 1.0), upload_per_rank=MB, bandwidth=MB)
    policy = DeadlinePolicy(candidates=(16, 4, 8), deadline=12.0)
    decision = policy.assign({1: profile}, local_steps=4)[1]
    assert decision.rank == 8
    assert decision.predicted_seconds == pytest.approx(12.0)
    assert decision.reason == "rank 16 needs 20.0 s, the deadline is 12.0 s"


def test_memory_limits_the_rank_too() -> None:
    profile = make_profile(memory_bytes=100, fixed_bytes=50, bytes_per_rank=5)
    policy = DeadlinePolicy(candidates=(4, 8, 16), deadline=1e6)
    decision = policy.assign({1: profile}, local_steps=4)[1]
    assert decision.rank == 8
    assert "rank 16 needs 0.00 GB of memory" in decision.reason


def test_a_device_that_cannot_meet_the_smallest_rank_is_left_out_with_the_reason() -> None:
    slow = make_profile(step_seconds=(9.0, 9.0))
    small = make_profile(memory_bytes=10)
    decisions = DeadlinePolicy(candidates=(4, 8), deadline=20.0).assign(
        {1: slow, 2: small}, local_steps=4
    )
    assert decisions[1].rank is None
    assert "rank 4 needs 55.5 s, the deadline is 20.0 s" in decisions[1].reason
    assert decisions[2].rank is None
    assert "of memory" in decisions[2].reason


def test_without_a_deadline_the_slowest_device_sets_it_and_nobody_is_left_out() -> None:
    phone = make_profile(step_seconds=(9.0, 9.0), bandwidth=0.25e6)
    laptop = make_profile(step_seconds=(3.0, 3.0), bandwidth=8e6)
    tiny = make_profile(memory_bytes=1, step_seconds=(99.0, 99.0))
    policy = DeadlinePolicy(candidates=(4, 8, 32))
    decisions = policy.assign({1: phone, 2: laptop, 3: tiny}, local_steps=4)
    assert policy.deadline == pytest.approx(predicted_seconds(phone, 4, local_steps=4))
    assert {node: decision.rank for node, decision in decisions.items()} == {1: 4, 2: 32, 3: None}


@pytest.mark.parametrize("speed", [0.25, 0.5, 1.0, 2.0])
def test_the_default_classes_get_different_ranks_on_machines_of_any_speed(speed: float) -> None:
    from flower_strategy.devices import DEVICE_CLASSES

    profiles = {
        node: make_profile(
            step_seconds=(3.0 / speed * device.slowdown, 3.1 / speed * device.slowdown),
            bandwidth=device.bandwidth,
            memory_bytes=device.memory_bytes,
        )
        for node, device in enumerate(DEVICE_CLASSES.values())
    }
    decisions = DeadlinePolicy(candidates=(4, 8, 16, 32)).assign(profiles, local_steps=4)
    assert [decisions[node].rank for node in range(3)] == [4, 16, 32]
