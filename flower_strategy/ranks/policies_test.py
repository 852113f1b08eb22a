from dataclasses import replace

import pytest

from floe_plugins.errors import ConfigError
from flower_strategy.config import RunConfig
from flower_strategy.device.hardware import DEVICE_CLASSES
from flower_strategy.ranks.cost import RankPolicy, predicted_seconds
from flower_strategy.ranks.policies import (
    DeadlinePolicy,
    FixedPolicy,
    MemoryPolicy,
    UniformMinPolicy,
    parse_fixed_ranks,
    policy_from_config,
)
from flower_strategy.ranks.steps import FilledRounds
from flower_strategy.testing.models import make_profile

# A rank takes a second: 8/9 of it to upload, 1/9 to download.
MB = 1_000_000
STEPS = dict.fromkeys(range(4), 4)


def test_the_largest_rank_within_the_deadline_is_taken() -> None:
    profile = make_profile(step_seconds=(1.0, 1.0), upload_per_rank=8 * MB, bandwidth=9 * MB)
    policy = DeadlinePolicy(candidates=(16, 4, 8), deadline=12.0)
    decision = policy.assign({1: profile}, local_steps=STEPS, pace={})[1]
    assert decision.rank == 8
    assert decision.predicted_seconds == pytest.approx(12.0)
    assert decision.reason == "rank 16 needs 20.0 s, the deadline is 12.0 s"


def test_memory_limits_the_rank_too() -> None:
    profile = make_profile(memory_bytes=100, fixed_bytes=50, bytes_per_rank=5)
    policy = DeadlinePolicy(candidates=(4, 8, 16), deadline=1e6)
    decision = policy.assign({1: profile}, local_steps=STEPS, pace={})[1]
    assert decision.rank == 8
    assert "rank 16 needs 0.00 GB of memory" in decision.reason


def test_a_device_that_cannot_meet_the_smallest_rank_is_left_out_with_the_reason() -> None:
    slow = make_profile(step_seconds=(9.0, 9.0))
    small = make_profile(memory_bytes=10)
    decisions = DeadlinePolicy(candidates=(4, 8), deadline=20.0).assign(
        {1: slow, 2: small}, local_steps=STEPS, pace={}
    )
    assert decisions[1].rank is None
    assert "rank 4 needs 58.0 s, the deadline is 20.0 s" in decisions[1].reason
    assert decisions[2].rank is None
    assert "of memory" in decisions[2].reason


def test_without_a_deadline_the_slowest_device_sets_it_and_nobody_is_left_out() -> None:
    phone = make_profile(step_seconds=(9.0, 9.0), bandwidth=0.25e6)
    laptop = make_profile(step_seconds=(3.0, 3.0), bandwidth=8e6)
    tiny = make_profile(memory_bytes=1, step_seconds=(99.0, 99.0))
    policy = DeadlinePolicy(candidates=(4, 8, 32))
    decisions = policy.assign({1: phone, 2: laptop, 3: tiny}, local_steps=STEPS, pace={})
    assert policy.deadline == pytest.approx(predicted_seconds(phone, 4, local_steps=4))
    assert {node: decision.rank for node, decision in decisions.items()} == {1: 4, 2: 32, 3: None}
    later = policy.assign({1: phone, 2: laptop}, local_steps=STEPS, pace={1: 5.0, 2: 40.0})
    assert [decision.rank for decision in later.values()] == [4, 4]
    assert later[1].predicted_seconds == pytest.approx(5 * 36 + 9 / 8 * 4 * 1_221_120 / 0.25e6)


def test_the_slowest_device_sets_a_deadline_that_leaves_none_much_time_to_wait() -> None:
    """Steps of 0.3 to 8 s on the default classes, SmolLM2's adapters in eight bits."""
    waits = {"whole": 0.0, "fitted": 0.0}
    for seconds in (0.3, 1.0, 1.5, 2.2, 2.9, 3.6, 5.0, 8.0):
        profiles = {
            node: make_profile(
                device=device.name,
                memory_bytes=device.memory_bytes,
                step_seconds=(
                    (seconds + 0.03) * device.slowdown,
                    (seconds + 0.25) * device.slowdown,
                ),
                upload_per_rank=305_280,
                bandwidth=device.bandwidth,
                download_rank=16,
                num_examples=10_000,
            )
            for node, device in enumerate(DEVICE_CLASSES.values())
        }
        filled = FilledRounds()
        ranks = (4, 8, 16, 32)
        fitted = DeadlinePolicy(candidates=ranks, filled=filled)
        fitted.assign(profiles, local_steps=dict.fromkeys(profiles, 3), pace={})
        shortest = max(predicted_seconds(each, 4, local_steps=3) for each in profiles.values())
        assert fitted.deadline is not None
        assert shortest <= fitted.deadline <= 1.25 * shortest
        for name, deadline in (("whole", shortest), ("fitted", fitted.deadline)):
            policy = DeadlinePolicy(candidates=ranks, filled=filled, deadline=deadline)
            busy = []
            for node, decision in policy.assign(
                profiles, local_steps=dict.fromkeys(profiles, 1), pace={}
            ).items():
                rank = decision.rank or 0
                steps = filled.steps(profiles[node], rank, deadline=deadline)
                busy.append(predicted_seconds(profiles[node], rank, local_steps=steps))
            waits[name] = max(waits[name], 1 - min(busy) / max(busy))
    assert waits["fitted"] < 0.1 < waits["whole"]


def test_a_device_of_more_steps_gets_a_lower_rank() -> None:
    profile = make_profile(step_seconds=(1.0, 1.0), upload_per_rank=8 * MB, bandwidth=9 * MB)
    profiles, steps = {1: profile, 2: profile}, {1: 4, 2: 8}
    policy = DeadlinePolicy(candidates=(4, 8, 16), deadline=12.0)
    decisions = policy.assign(profiles, local_steps=steps, pace={})
    assert [decision.rank for decision in decisions.values()] == [8, 4]
    # The deadline that the policy finds is what the longer round takes.
    automatic = DeadlinePolicy(candidates=(4, 8, 16))
    automatic.assign(profiles, local_steps=steps, pace={})
    assert automatic.deadline == pytest.approx(8 + 4)


@pytest.mark.parametrize("speed", [0.25, 0.5, 1.0, 2.0])
def test_the_default_classes_get_different_ranks_on_machines_of_any_speed(speed: float) -> None:
    from flower_strategy.device.hardware import DEVICE_CLASSES

    profiles = {
        node: make_profile(
            step_seconds=(3.0 / speed * device.slowdown, 3.1 / speed * device.slowdown),
            bandwidth=device.bandwidth,
            memory_bytes=device.memory_bytes,
        )
        for node, device in enumerate(DEVICE_CLASSES.values())
    }
    decisions = DeadlinePolicy(candidates=(4, 8, 16, 32)).assign(
        profiles, local_steps=STEPS, pace={}
    )
    assert [decisions[node].rank for node in range(3)] == [4, 16, 32]


def test_a_slowdown_lowers_the_rank_and_its_end_gives_it_back() -> None:
    profile = make_profile(step_seconds=(1.0, 1.0), upload_per_rank=8 * MB, bandwidth=9 * MB)
    policy = DeadlinePolicy(candidates=(4, 8, 16), deadline=12.0)

    def rank(pace: dict[int, float]) -> int | None:
        return policy.assign({1: profile}, local_steps=STEPS, pace=pace)[1].rank

    assert [rank({}), rank({1: 2.0}), rank({1: 3.0}), rank({1: 1.0})] == [8, 4, None, 8]


def test_memory_alone_decides_under_the_memory_policy() -> None:
    slow = make_profile(step_seconds=(900.0, 900.0), memory_bytes=10**12)
    small = make_profile(memory_bytes=100, fixed_bytes=50, bytes_per_rank=5)
    decisions = MemoryPolicy(candidates=(4, 8, 16)).assign(
        {1: slow, 2: small}, local_steps=STEPS, pace={1: 50.0}
    )
    assert [decisions[1].rank, decisions[2].rank] == [16, 8]


def test_fixed_ranks_go_by_class_and_a_class_without_one_is_left_out() -> None:
    profiles = {n: make_profile(device=name) for n, name in enumerate(("phone", "laptop", "watch"))}
    decisions = FixedPolicy(ranks=parse_fixed_ranks("phone:4, laptop:32")).assign(
        profiles, local_steps=STEPS, pace={}
    )
    assert [decision.rank for decision in decisions.values()] == [4, 32, None]
    assert "fixed-ranks names no rank for class 'watch'" in decisions[2].reason
    for_all = FixedPolicy(ranks=parse_fixed_ranks("8,watch:2"))
    assert for_all.candidates == (2, 8)
    ranks = [d.rank for d in for_all.assign(profiles, local_steps=STEPS, pace={}).values()]
    assert ranks == [8, 8, 2]


@pytest.mark.parametrize("text", ["", "0", "8,16", "phone=4", "phone:many", "phone:513", "4.5"])
def test_fixed_ranks_that_cannot_be_understood_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="fixed-ranks="):
        parse_fixed_ranks(text)


def test_uniform_min_gives_all_what_the_weakest_affords_and_leaves_out_who_affords_none() -> None:
    phone = make_profile(step_seconds=(1.0, 1.0), upload_per_rank=8 * MB, bandwidth=9 * MB)
    laptop = make_profile(step_seconds=(1.0, 1.0), upload_per_rank=8 * MB, bandwidth=900 * MB)
    tiny = make_profile(memory_bytes=1)
    policy = UniformMinPolicy(candidates=(4, 8, 16), deadline=12.0)
    decisions = policy.assign({1: phone, 2: laptop, 3: tiny}, local_steps=STEPS, pace={})
    assert [decision.rank for decision in decisions.values()] == [8, 8, None]
    assert decisions[2].predicted_seconds == pytest.approx(4.08)
    policy.deadline = 8.0
    assert policy.assign({1: phone}, local_steps=STEPS, pace={})[1].rank == 4


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("deadline", DeadlinePolicy),
        ("memory", MemoryPolicy),
        ("fixed", FixedPolicy),
        ("uniform-min", UniformMinPolicy),
    ],
)
def test_the_configuration_names_the_policy(name: str, kind: type) -> None:
    config = RunConfig.from_dict(
        {"rank-policy": name, "fixed-ranks": "8", "round-deadline": 30.0, "ranks": "4,8"}
    )
    policy: RankPolicy = policy_from_config(config)
    assert isinstance(policy, kind)
    assert policy.name == name
    assert policy.candidates == ((8,) if name == "fixed" else (4, 8))
    assert policy.deadline == (30.0 if name in ("deadline", "uniform-min") else None)


def test_where_steps_fill_the_deadline_the_rank_is_the_one_that_learns_most() -> None:
    # A step takes a second at every rank. A rank takes a second to travel on one device, and next
    # to nothing on the other.
    slow_link = make_profile(step_seconds=(1.0, 1.0), upload_per_rank=8 * MB, bandwidth=9 * MB)
    fast_link = make_profile(step_seconds=(1.0, 1.0), upload_per_rank=8 * MB, bandwidth=900 * MB)
    profiles = {1: slow_link, 2: fast_link}
    filled = DeadlinePolicy(candidates=(4, 8, 16), deadline=20.0, filled=FilledRounds())
    decisions = filled.assign(profiles, local_steps=STEPS, pace={})
    assert {node: decision.rank for node, decision in decisions.items()} == {1: 4, 2: 16}
    assert decisions[1].reason == "16 steps at rank 4 learn more than 4 at rank 16"
    assert decisions[1].predicted_seconds == predicted_seconds(slow_link, 4, local_steps=4)
    alone = DeadlinePolicy(candidates=(4, 8, 16), deadline=20.0)
    given = alone.assign(profiles, local_steps=STEPS, pace={})
    assert {node: decision.rank for node, decision in given.items()} == {1: 16, 2: 16}
    # Of two ranks that buy the same number of steps, the larger one.
    few = DeadlinePolicy(candidates=(4, 5), deadline=13.5, filled=FilledRounds())
    assert few.assign({1: slow_link}, local_steps={1: 4}, pace={1: 2.0})[1].rank == 5
    # And where a cap on passes leaves both the same: 60 examples, 2 passes, 5 rounds.
    capped = FilledRounds(most_epochs=2.0, batch_size=6, rounds=5)
    policy = DeadlinePolicy(candidates=(4, 8, 16), deadline=20.0, filled=capped)
    many = replace(slow_link, num_examples=60)
    assert policy.assign({1: many}, local_steps=STEPS, pace={})[1].rank == 16
