"""How the numbers of a method travel, and how many steps its devices take in a round.

Both are independent of how adapters become one, so every method can have Floe's transport and
Floe's steps: what is left of a difference is then due to the method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import AdapterState
from integration_tests.benchmarks.federated_quality.world import (
    Load,
    World,
    download_seconds,
    load_seconds,
    step_seconds,
)

_INT8, _FILLED = "int8", "filled"


@dataclass(frozen=True)
class Way:
    """Transport and steps.

    Attributes
    ----------
    int8 : bool
        Adapters travel in eight bits, as Floe's do, and both ends go on with the rounded numbers;
        otherwise in float32.
    filled : bool
        A device takes as many steps as fit between download and upload, in as many rounds of equal
        length as the protocol's ``merges``; otherwise its ``local_steps``, in as many rounds as end
        within the budget.
    """

    int8: bool = False
    filled: bool = False

    def bytes_of(self, adapter: AdapterState) -> int:
        """Return the bytes of an adapter that travels."""
        return int8.encoded_bytes(adapter) if self.int8 else adapter.num_bytes

    def carried(self, adapter: AdapterState) -> AdapterState:
        """Return the adapter that arrives."""
        return int8.rounded(adapter) if self.int8 else adapter


def split_name(text: str) -> tuple[str, Way] | None:
    """Return method and way of a name such as ``fedavg:int8:filled``; None if it is none."""
    name, *options = text.split(":")
    if len(set(options)) != len(options) or not {*options} <= {_INT8, _FILLED}:
        return None
    return name, Way(int8=_INT8 in options, filled=_FILLED in options)


@dataclass(frozen=True)
class Plan:
    """The rounds of a run.

    Attributes
    ----------
    steps : dict[int, int]
        Node -> its steps in a round.
    rounds : float
        How many there are at most.
    last_seconds : float
        Seconds of the download of the result, which the last round must leave.
    """

    steps: dict[int, int]
    rounds: float
    last_seconds: float


def planned(world: World, loads: Mapping[int, Load], *, way: Way) -> Plan:
    """Return the rounds that fit the budget.

    Parameters
    ----------
    world : World
        Devices and protocol.
    loads : Mapping[int, Load]
        Node -> its part of a round other than the first, with one step.
    way : Way
        How many steps there are.
    """
    protocol = world.protocol
    devices = {node: world.nodes[node].device for node in loads}
    last = max(download_seconds(devices[node], load, protocol) for node, load in loads.items())
    if not way.filled:
        return Plan(dict.fromkeys(loads, protocol.local_steps), math.inf, last)
    one = {node: load_seconds(devices[node], load, protocol) for node, load in loads.items()}
    for rounds in range(protocol.merges, 0, -1):
        length = (protocol.budget - last) / rounds
        if length >= max(one.values()):
            steps = {
                # The first step is in `one`.
                node: 1
                + math.floor(
                    (length - one[node]) / step_seconds(devices[node], load.rank, protocol)
                )
                for node, load in loads.items()
            }
            return Plan(steps, rounds, last)
    return Plan(dict.fromkeys(loads, 1), 0, last)
