"""Which devices are recognised under other node ids."""

from __future__ import annotations

import pytest

from flower_strategy.server.records import DeviceRound, RoundRecord
from flower_strategy.testing.fleets import Fleet
from flower_strategy.testing.models import make_profile


def fleet_of(*names: str, replied: list[set[int]]) -> Fleet:
    """Return a fleet of devices with names, whose state says how often each has replied."""
    fleet = Fleet([8] * len(names))
    state = fleet.strategy.state
    state.profiles = {node: make_profile(identity=f"name:{n}") for node, n in enumerate(names)}
    state.steps = {node: 100 + node for node in range(len(names))}
    state.history = [
        RoundRecord(
            round=number,
            devices={
                # Who is asked and does not reply is in the record too.
                node: DeviceRound(cluster="cluster-0", train_loss=1.0 if node in nodes else None)
                for node in range(len(names))
            },
        )
        for number, nodes in enumerate(replied, 1)
    ]
    return fleet


def joins(fleet: Fleet, node: int, name: str, *, online: list[int]) -> int | None:
    """Let a node join; return the steps of the device that the run takes it for."""
    profiles = {node: make_profile(identity=f"name:{name}")}
    back = fleet.strategy.take_profiles(profiles, [*online, node])
    assert back == (node in fleet.strategy.state.steps)
    assert node in fleet.strategy.state.profiles
    return fleet.strategy.state.steps.get(node)


def test_a_device_that_restarts_quickly_is_recognised_the_next_time() -> None:
    fleet = fleet_of("phone", "desk", replied=[{0, 1}])
    # Flower still takes its first node for alive.
    assert joins(fleet, 7, "phone", online=[0, 1]) is None
    fleet.strategy.state.steps[7] = 3
    fleet.strategy.state.history.append(
        RoundRecord(round=2, devices={7: DeviceRound(cluster="cluster-0", train_loss=1.0)})
    )
    assert joins(fleet, 8, "phone", online=[1]) == 3
    # And once more: the other id is that of nobody.
    assert joins(fleet, 9, "phone", online=[1]) == 3
    assert joins(fleet, 10, "desk", online=[9]) == 101


@pytest.mark.parametrize(("replied", "steps"), [([{0}, {1}], 101), ([{1}, {0}], 100), ([], 101)])
def test_of_two_nodes_of_one_device_it_is_the_one_seen_last(
    replied: list[set[int]], steps: int
) -> None:
    assert joins(fleet_of("phone", "phone", replied=replied), 7, "phone", online=[]) == steps


def test_a_name_of_several_devices_is_that_of_none() -> None:
    fleet = fleet_of("phone", "phone", replied=[{0}, {0, 1}])
    assert joins(fleet, 7, "phone", online=[1]) is None
    fleet = fleet_of("phone", replied=[{0}])
    both = {node: make_profile(identity="name:phone") for node in (7, 8)}
    assert not fleet.strategy.take_profiles(both, [7, 8])
