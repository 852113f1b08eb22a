"""The virtual clock: what rounds cost on the devices, by one rule for all methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flower_strategy.device.hardware import Device
from integration_tests.benchmarks.federated_quality.protocol import Protocol


@dataclass(frozen=True, kw_only=True)
class Load:
    """One device's part of a round.

    Attributes
    ----------
    rank : int
        Rank that it trains at.
    bytes_down, bytes_up : int
        What it receives and sends.
    """

    rank: int
    bytes_down: int
    bytes_up: int


def step_seconds(device: Device, rank: int, protocol: Protocol) -> float:
    """Return the virtual seconds of one optimizer step."""
    base, slope = protocol.step_seconds
    return (base + slope * rank) * device.slowdown


def load_seconds(device: Device, load: Load, protocol: Protocol) -> float:
    """Return the virtual seconds of download, local steps and upload."""
    return (
        device.upload_seconds(load.bytes_down) / protocol.downlink
        + protocol.local_steps * step_seconds(device, load.rank, protocol)
        + device.upload_seconds(load.bytes_up)
    )


class BudgetSpentError(Exception):
    """The next round would not end within the budget."""


class Clock:
    """Counts a method's virtual seconds and bytes; a round takes as long as its slowest device.

    Parameters
    ----------
    devices : Mapping[int, Device]
        Node -> its device.
    protocol : Protocol
        Step cost, downlink, local steps.
    budget : float
        Virtual seconds that may be used.
    """

    def __init__(self, devices: Mapping[int, Device], protocol: Protocol, budget: float) -> None:
        self._devices = devices
        self._protocol = protocol
        self._budget = budget
        self.seconds = 0.0
        self.rounds = 0
        self.bytes_down = 0
        self.bytes_up = 0

    def begin_round(self, loads: Mapping[int, Load]) -> None:
        """Count a round in.

        Raises
        ------
        BudgetSpentError
            It would not end in time. Nothing is counted then.
        """
        slowest = max(
            load_seconds(self._devices[node], load, self._protocol) for node, load in loads.items()
        )
        if self.seconds + slowest > self._budget:
            raise BudgetSpentError
        self.seconds += slowest
        self.rounds += 1
        self.bytes_down += sum(load.bytes_down for load in loads.values())
        self.bytes_up += sum(load.bytes_up for load in loads.values())
