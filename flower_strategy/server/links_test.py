from __future__ import annotations

import math

import pytest
from flwr.app import ArrayRecord

from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.profile import DeviceProfile
from flower_strategy.ranks.cost import transfer_seconds
from flower_strategy.ranks.policies import DeadlinePolicy, UniformMinPolicy
from flower_strategy.server.links import corrected, deadline_links, measure, with_links
from flower_strategy.server.records import DeviceRound
from flower_strategy.server.replies import TrainReply
from flower_strategy.server.state import Slowdown
from flower_strategy.testing.models import make_profile

UP, DOWN = 2_000_000, 8_000_000


def measured(
    profile: DeviceProfile, *, seen: float | None, trained: float | None = 4.0
) -> DeviceRound:
    device = DeviceRound(cluster="cluster-0", bytes_up=UP, bytes_down=DOWN)
    reply = TrainReply(
        adapter=AdapterState({}),
        arrays=ArrayRecord(),
        num_examples=8,
        loss=1.0,
        seconds=5.0,
        steps=3,
        began=1,
        training_seconds=trained,
    )
    measure(device, profile, reply, seen)
    return device


def test_transport_is_what_training_leaves_of_the_seconds_seen() -> None:
    device = measured(make_profile(identity="name:a", bandwidth=1e6), seen=10.0)
    assert (device.observed_seconds, device.transfer_seconds) == (10.0, 6.0)
    assert device.transfer_measured


@pytest.mark.parametrize(
    ("identity", "seen", "trained"),
    [
        ("partition:3", 10.0, 4.0),
        ("name:a", None, 4.0),
        ("name:a", 10.0, None),
        ("name:a", 3.0, 4.0),
    ],
    ids=["simulated", "not seen", "old client", "claims more than passed"],
)
def test_other_devices_are_taken_at_their_word(
    identity: str, seen: float | None, trained: float | None
) -> None:
    device = measured(make_profile(identity=identity, bandwidth=1e6), seen=seen, trained=trained)
    assert device.observed_seconds == 5.0
    assert not device.transfer_measured


def test_a_claim_of_faster_training_hides_no_second() -> None:
    profile = make_profile(identity="name:a", bandwidth=1e6)
    honest, lying = (measured(profile, seen=10.0, trained=trained) for trained in (4.0, 0.0))
    assert honest.observed_seconds == lying.observed_seconds == 10.0
    assert lying.transfer_seconds == 10.0


@pytest.mark.parametrize("bandwidth", [2e6, math.inf])
def test_two_rounds_correct_a_bandwidth_to_what_was_seen(bandwidth: float) -> None:
    profile = make_profile(identity="name:a", bandwidth=bandwidth)
    device = measured(profile, seen=10.0)
    link = corrected(corrected(None, device, profile), device, profile)
    right = with_links({7: profile, 8: profile}, {7: link})
    assert transfer_seconds(right[7], bytes_up=UP, bytes_down=DOWN) == pytest.approx(6.0)
    assert right[8] is profile


def test_a_link_that_is_a_little_faster_once_changes_nothing() -> None:
    profile = make_profile(identity="name:a", bandwidth=2e6)
    device = measured(profile, seen=5.0)
    assert corrected(None, device, profile).factor == 1.0


@pytest.mark.parametrize("policy", [DeadlinePolicy, UniformMinPolicy])
def test_waiting_counts_against_a_deadline_of_the_user_s_alone(
    policy: type[DeadlinePolicy | UniformMinPolicy],
) -> None:
    links = {7: Slowdown(3.0)}
    assert deadline_links(policy(candidates=(4, 8), deadline=60.0), links) == links
    assert deadline_links(policy(candidates=(4, 8)), links) == {}
