"""The devices of one level and seed: what they hold, what they are, what they tell the server."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from flower_strategy.adapters.adapter import AdapterState, initial_adapter
from flower_strategy.config import RunConfig
from flower_strategy.data import LocalData, load_local_data
from flower_strategy.device.base_model import BaseModel, layer_shapes, load_base_model
from flower_strategy.device.embedding import task_embedding
from flower_strategy.device.hardware import Device, simulated_device
from flower_strategy.device.training_cost import (
    COPIES_PER_FACTOR,
    measure_training,
    upload_per_rank,
)
from flower_strategy.profile import DeviceProfile
from flower_strategy.ranks.cost import StepCost
from flower_strategy.settings import EmbeddingSettings, TrainingSettings
from integration_tests.benchmarks.federated_quality.clock import Clock, step_seconds
from integration_tests.benchmarks.federated_quality.protocol import Protocol


@dataclass(frozen=True, eq=False)
class Node:
    """One simulated device with its data."""

    device: Device
    data: LocalData

    @property
    def num_examples(self) -> int:
        """Training examples, its weight in a mean."""
        return len(self.data.train)


class World:
    """All that methods share at one level and seed.

    Parameters
    ----------
    protocol : Protocol
        The terms.
    level : float
        The run configuration's ``mix``: 1 gives all devices the same mixture, 0 one task each.
    seed : int
        Seed of data, initial adapter and batches.
    """

    def __init__(self, protocol: Protocol, *, level: float, seed: int) -> None:
        self.protocol, self.level, self.seed = protocol, level, seed
        self.config: RunConfig = protocol.run_config(level, seed)
        self.settings = TrainingSettings.from_config(self.config)
        self.base: BaseModel = load_base_model(self.settings.model, self.settings.dtype)
        self.shapes = layer_shapes(self.base.model)
        self.nodes: dict[int, Node] = {}
        for index in range(protocol.clients):
            place = {"partition-id": index, "num-partitions": protocol.clients}
            device = simulated_device(protocol.devices, index)
            self.nodes[index] = Node(device, load_local_data(self.config, place, simulated=True))

    def initial(self, rank: int, *, variant: int = 0) -> AdapterState:
        """Return the adapter that training begins with; ranks share the rows they have in common.

        Parameters
        ----------
        rank : int
            The rank.
        variant : int (default: 0)
            0 is the one that all methods begin with; other numbers give other random factors.
        """
        return initial_adapter(self.shapes, rank=rank, seed=self.seed + 1_000_003 * variant)

    def clock(self, budget: float | None = None) -> Clock:
        """Return a clock at zero, with the protocol's budget unless told otherwise."""
        devices = {index: node.device for index, node in self.nodes.items()}
        return Clock(devices, self.protocol, self.protocol.budget if budget is None else budget)

    @cached_property
    def profiles(self) -> dict[int, DeviceProfile]:
        """What each device tells the server; its seconds are the protocol's."""
        upload = upload_per_rank(self.shapes)
        low, high = min(self.protocol.ranks), max(self.protocol.ranks)
        how = EmbeddingSettings(max_length=self.settings.max_length)
        embedded = {
            index: task_embedding(self.base, [example.text for example in node.data.train], how)
            for index, node in self.nodes.items()
        }
        return {
            index: DeviceProfile(
                device=node.device.name,
                label=node.data.label,
                identity=f"partition:{index}",
                memory_bytes=node.device.memory_bytes,
                fixed_bytes=self.base.weight_bytes,
                bytes_per_rank=upload * COPIES_PER_FACTOR,
                upload_per_rank=upload,
                step_ranks=(low, high),
                step_seconds=(
                    step_seconds(node.device, low, self.protocol),
                    step_seconds(node.device, high, self.protocol),
                ),
                bandwidth=node.device.bandwidth,
                num_examples=node.num_examples,
                embedding=embedded[index].vector,
                embedding_error=embedded[index].error,
            )
            for index, node in self.nodes.items()
        }


def measured_step_seconds(protocol: Protocol, *, seed: int) -> tuple[float, float]:
    """Return the protocol's ``step_seconds`` as this machine needs them, by one measurement."""
    world = World(protocol, level=1.0, seed=seed)
    clock = Device(name="this", memory_bytes=0, simulated=True)
    low, high = min(protocol.ranks), max(protocol.ranks)
    cost = measure_training(
        world.base, world.nodes[0].data.train, world.settings, clock, ranks=(low, high)
    )
    profile = next(iter(world.profiles.values()))
    # The rank policy's own fit, so that its predictions and the clock agree.
    line = StepCost.fit(
        replace(profile, step_ranks=cost.step_ranks, step_seconds=cost.step_seconds)
    )
    return line.base, line.slope
