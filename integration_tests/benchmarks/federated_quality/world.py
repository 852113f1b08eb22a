"""Shared by all methods: terms, devices, the virtual clock, real local training and evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import AdapterState, initial_adapter
from flower_strategy.config import ConfigValue, RunConfig
from flower_strategy.data import LocalData, load_local_data
from flower_strategy.data.examples import Example
from flower_strategy.data.files import find_files
from flower_strategy.device.base_model import BaseModel, layer_shapes, load_base_model
from flower_strategy.device.embedding import task_embedding
from flower_strategy.device.hardware import Device, simulated_device
from flower_strategy.device.loss import held_out_loss
from flower_strategy.device.training import TrainingOutcome, train_adapter
from flower_strategy.device.training_cost import measure_training, memory_per_rank
from flower_strategy.profile import SIMULATED_IDENTITY, DeviceProfile
from flower_strategy.ranks.cost import StepCost
from flower_strategy.settings import EmbeddingSettings, TrainingSettings
from integration_tests.benchmarks.data import SMOLLM2


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is the same for every method: model, data, devices, local training, evaluation."""

    model: str = SMOLLM2  # the frozen base model
    data: str = "embedded"  # or JSONL files and folders separated by commas; every file is one task
    clients: int = 6  # devices
    devices: tuple[str, ...] = ("phone", "jetson", "laptop")  # their classes, assigned in turn
    #: Candidates of Floe's rank policy. Every other method but FedAvg trains at the ranks that the
    #: policy gives; FedAvg at the smallest of them.
    ranks: tuple[int, ...] = (4, 8, 16, 32)
    budget: float = 86.0  # virtual seconds that a method may use
    local_steps: int = 3
    batch_size: int = 2
    learning_rate: float = 2e-3
    max_length: int = 32
    eval_examples: int = 16  # held-out, per device
    examples: int = 0  # that a device trains on at most; 0 is all it has
    merges: int = 3  # rounds of a method whose steps fill them
    #: Seconds of a step on a device with slowdown 1: at rank 0, and what one rank adds.
    step_seconds: tuple[float, float] = (2.2, 0.008)
    downlink: float = 8.0  # how many times faster than its uplink a device downloads

    def run_config(
        self, level: float, seed: int, changes: Mapping[str, ConfigValue] | None = None
    ) -> RunConfig:
        """Return Floe's run, with some keys changed."""
        alike = ("local_steps", "batch_size", "learning_rate", "max_length", "eval_examples")
        return RunConfig.from_dict(
            {
                "model": self.model,
                "data": self.data,
                "devices": ",".join(self.devices),
                "ranks": ",".join(map(str, self.ranks)),
                "mix": level,
                "seed": seed,
                **{name.replace("_", "-"): getattr(self, name) for name in alike},
                # Devices are measured once, by the same rule for all methods, when the budget is
                # spent; nothing needs to survive the process. Where they have few examples, Floe's
                # validate, so that it can stop.
                "fraction-evaluate": 1.0 if self.examples else 0.0,
                "keep-checkpoints": 0,
                **(changes or {}),
            }
        )

    def described(self) -> dict[str, Any]:
        """Return the terms as JSON values; data files by name and content, not by place."""
        values = {key: list(x) if isinstance(x, tuple) else x for key, x in asdict(self).items()}
        if self.data != "embedded":
            values["data"] = {
                name: hashlib.sha256(path.read_bytes()).hexdigest()[:16]
                for name, path in find_files(self.data).items()
            }
        if Path(self.model).exists():
            values["model"] = Path(self.model).name
        return values


@dataclass(frozen=True, kw_only=True)
class Load:
    """One device's part of a round."""

    rank: int  # that it trains at
    steps: int
    bytes_down: int
    bytes_up: int

    def with_steps(self, steps: int) -> Load:
        return replace(self, steps=steps)

    def without_download(self) -> Load:
        """Return it in the first round: the initial adapter follows from the seed."""
        return replace(self, bytes_down=0)


def step_seconds(device: Device, rank: int, protocol: Protocol) -> float:
    """Return the virtual seconds of one optimizer step."""
    base, slope = protocol.step_seconds
    return (base + slope * rank) * device.slowdown


def download_seconds(device: Device, load: Load, protocol: Protocol) -> float:
    """Return the virtual seconds of a download."""
    return device.upload_seconds(load.bytes_down) / protocol.downlink


def load_seconds(device: Device, load: Load, protocol: Protocol) -> float:
    """Return the virtual seconds of download, local steps and upload."""
    return (
        download_seconds(device, load, protocol)
        + load.steps * step_seconds(device, load.rank, protocol)
        + device.upload_seconds(load.bytes_up)
    )


class BudgetSpentError(Exception):
    """The next round would not end within the budget."""


class Clock:
    """Counts a method's virtual seconds and bytes; a round takes as long as its slowest device."""

    def __init__(self, devices: Mapping[int, Device], protocol: Protocol, budget: float) -> None:
        self._devices, self._protocol, self._budget = devices, protocol, budget
        self.seconds = self._busy = self._held = 0.0
        self.rounds = self.bytes_down = self.bytes_up = 0

    def begin_round(self, loads: Mapping[int, Load], *, reserve: float = 0.0) -> None:
        """Count a round in; one that would not end in time is a `BudgetSpentError`, uncounted.

        `reserve` are the seconds that must be left after it.
        """
        needed = [
            load_seconds(self._devices[node], load, self._protocol) for node, load in loads.items()
        ]
        slowest = max(needed)
        # A plan that fills the budget may exceed it by a rounding error.
        if self.seconds + slowest + reserve > self._budget * (1 + 1e-9):
            raise BudgetSpentError
        self.seconds += slowest
        self._busy += sum(needed)
        self._held += slowest * len(needed)
        self.rounds += 1
        self.bytes_down += sum(load.bytes_down for load in loads.values())
        self.bytes_up += sum(load.bytes_up for load in loads.values())

    def download_last(self, loads: Mapping[int, Load]) -> None:
        """Count in the download of the result, which every device has to make."""
        self.seconds += max(
            download_seconds(self._devices[node], load, self._protocol)
            for node, load in loads.items()
        )
        self.bytes_down += sum(load.bytes_down for load in loads.values())

    @property
    def idle(self) -> float:
        """Share of all rounds that devices have waited for the slowest one."""
        return 1.0 - self._busy / self._held if self._held else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What a method has reached at one level and seed when its budget is spent."""

    clock: Clock
    #: Node -> the adapter that it would use: the one that the next round would send it.
    served: Mapping[int, AdapterState]
    steps: int  # of the optimizer, on all devices
    details: dict[str, Any] = field(default_factory=dict)  # further details, for JSON


class Node(NamedTuple):
    """One simulated device with its data."""

    device: Device
    data: LocalData

    @property
    def examples(self) -> tuple[Example, ...]:
        """What methods train on that keep no examples for validation."""
        return (*self.data.train, *self.data.validation)


class World:
    """The devices of one level and seed: their data, their hardware and their profiles.

    The level is the run configuration's ``mix``: 1 gives all devices the same mixture, 0 one task
    each.
    """

    def __init__(self, protocol: Protocol, *, level: float, seed: int) -> None:
        self.protocol, self.level, self.seed = protocol, level, seed
        self.config: RunConfig = protocol.run_config(level, seed)
        self.settings = TrainingSettings.from_config(self.config)
        self.base: BaseModel = load_base_model(self.settings.model, self.settings.dtype)
        self.shapes = layer_shapes(self.base)
        self.nodes: dict[int, Node] = {}
        for index in range(protocol.clients):
            place = {"partition-id": index, "num-partitions": protocol.clients}
            device = simulated_device(protocol.devices, index)
            data = load_local_data(self.config, place, simulated=True)
            if protocol.examples:
                # As few as a device with so many examples would validate with.
                kept = max(1, round(self.config.validation * protocol.examples))
                data = replace(
                    data,
                    train=data.train[: protocol.examples - kept],
                    validation=data.validation[:kept],
                )
            self.nodes[index] = Node(device, data)

    def initial(self, rank: int, *, variant: int = 0) -> AdapterState:
        """Return the adapter that training begins with; ranks share the rows they have in common.

        Variant 0 is the one that all methods begin with; others have other random factors.
        """
        return initial_adapter(self.shapes, rank=rank, seed=self.seed + 1_000_003 * variant)

    def clock(self, budget: float | None = None) -> Clock:
        """Return a clock at zero, with the protocol's budget unless told otherwise."""
        devices = {index: node.device for index, node in self.nodes.items()}
        return Clock(devices, self.protocol, self.protocol.budget if budget is None else budget)

    @cached_property
    def profiles(self) -> dict[int, DeviceProfile]:
        """The profile of each device; its seconds are the protocol's."""
        upload = int8.bytes_per_rank(self.shapes)
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
                identity=f"{SIMULATED_IDENTITY}{index}",
                memory_bytes=node.device.memory_bytes,
                fixed_bytes=self.base.weight_bytes,
                bytes_per_rank=memory_per_rank(self.shapes),
                upload_per_rank=upload,
                step_ranks=(low, high),
                step_seconds=(
                    step_seconds(node.device, low, self.protocol),
                    step_seconds(node.device, high, self.protocol),
                ),
                bandwidth=node.device.bandwidth,
                num_examples=len(node.data.train),
                embedding=embedded[index].vector,
                embedding_error=embedded[index].error,
            )
            for index, node in self.nodes.items()
        }


def measured_step_seconds(protocol: Protocol, *, seed: int) -> tuple[float, float]:
    """Return the protocol's ``step_seconds`` as this machine needs them, by one measurement."""
    world = World(protocol, level=1.0, seed=seed)
    clock = Device(name="this", memory_bytes=0, simulated=True)
    ends, examples = (min(protocol.ranks), max(protocol.ranks)), world.nodes[0].data.train
    cost = measure_training(world.base, examples, world.settings, clock, ranks=ends)
    measured: dict[str, Any] = {key: getattr(cost, key) for key in ("step_ranks", "step_seconds")}
    # The rank policy's own fit, so that its predictions and the clock agree.
    line = StepCost.fit(replace(world.profiles[0], **measured))
    return line.base, line.slope


class Workbench:
    """Trains and evaluates for all methods of one level and seed.

    A local training is a function of the adapter sent, the node, the round, the number of steps and
    the learning rate. Methods but Floe, whose devices train as in the product, send the same
    adapters in the first round, so its results are remembered, training alone included; later
    rounds have no two alike, and are not.
    """

    def __init__(self, world: World, *, remember: bool = True) -> None:
        self.world, self.trainings = world, 0
        self._remember, self._known = remember, dict[str, TrainingOutcome]()

    def train(
        self,
        node: int,
        adapter: AdapterState,
        *,
        server_round: int,
        steps: int | None = None,
        rate: float = 1.0,
        frozen: AdapterState | None = None,
    ) -> TrainingOutcome:
        """Train an adapter on a node's examples.

        With seed and node the round decides the order of the batches, for all methods alike.
        `rate` is a factor of the learning rate, `frozen` a move of the base weights that training
        builds on and leaves alone.
        """
        settings = self.world.settings
        if rate != 1.0:
            settings = settings.changed(learning_rate=rate * settings.learning_rate)
        if steps is not None:
            settings = settings.changed(local_steps=steps)
        key = ""
        if self._remember and server_round == 1 and frozen is None:
            key = f"{node} {settings.local_steps} {rate} {fingerprint(adapter)}"
            if key in self._known:
                return self._known[key]
        self.trainings += 1
        base, examples = self.world.base, self.world.nodes[node].examples
        order = (self.world.seed, server_round, node)
        with moved(base, frozen):
            outcome = train_adapter(base, adapter, examples, settings, order_seed=order)
        if key:
            self._known[key] = outcome
        return outcome

    def held_out(self, node: int, adapter: AdapterState) -> float:
        """Return the held-out loss of a node with an adapter, nats per response token."""
        examples = self.world.nodes[node].data.held_out
        return held_out_loss(self.world.base, adapter, examples, self.world.settings)[0]


def fingerprint(adapter: AdapterState) -> str:
    """Return a digest of an adapter's layers, numbers and scaling."""
    digest = hashlib.sha256(repr(adapter.scaling).encode())
    for name, factors in sorted(adapter.layers.items()):
        digest.update(f"{name} {factors.rank}".encode())
        digest.update(factors.a.tobytes())
        digest.update(factors.b.tobytes())
    return digest.hexdigest()


@contextmanager
def moved(base: BaseModel, adapter: AdapterState | None) -> Iterator[None]:
    """Merge an adapter into the base weights for a while.

    The original tensors are set aside and put back, so not a bit of them changes.
    """
    if adapter is None:
        yield
        return
    originals: dict[str, torch.Tensor] = {}
    try:
        for name in adapter.layers:
            weight = base.model.get_submodule(name).weight
            originals[name] = weight.data
            delta = torch.from_numpy(adapter.delta(name)).to(weight.device, weight.dtype)
            weight.data = weight.data + delta
        yield
    finally:
        for name, original in originals.items():
            base.model.get_submodule(name).weight.data = original
