"""A grid of thousands of synthetic devices: real messages, real shapes, no training."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict

from flower_strategy.adapters.adapter import AdapterState, LayerShapes, LoraFactors, initial_adapter
from flower_strategy.device.hardware import DEVICE_CLASSES
from flower_strategy.device.training_cost import COPIES_PER_FACTOR
from flower_strategy.messages import ARRAYS_KEY, METRICS_KEY, PROFILE_QUERY
from flower_strategy.profile import DeviceProfile
from flower_strategy.testing.grids import InProcessGrid

TASKS = 4
_FIRST_ID = 1_000
_DISTINCT = 6
# As SmolLM2's embeddings lie: cosine 0.97 to 0.99 within a task, 0.6 to 0.7 across.
_HIDDEN = 576
_ACROSS, _WITHIN = 0.7, 0.12
_STEP_RANKS, _STEP_SECONDS = (4, 32), (2.2, 2.5)


@dataclass(frozen=True)
class Delivery:
    """One training reply that left the grid.

    Attributes
    ----------
    at : float
        Seconds on the clock of ``time.perf_counter``.
    server_seconds : float
        Processor seconds of the process so far, without the grid's.
    """

    at: float
    server_seconds: float


def trained_adapters(
    shapes: LayerShapes, rank: int, *, count: int = _DISTINCT, seed: int = 0
) -> list[AdapterState]:
    """Return adapters as devices send them back: the common ``a``, a ``b`` of their own.

    Parameters
    ----------
    shapes : LayerShapes
        Layer -> (out, in).
    rank : int
        Rank of all of them.
    count : int
        How many.
    seed : int
        Of the initial adapter and of the factors.
    """
    initial = initial_adapter(shapes, rank=rank, seed=seed)
    made = []
    for number in range(count):
        random = np.random.default_rng([seed, rank, number])
        layers = {
            name: LoraFactors(
                b=(0.01 * random.standard_normal(factors.b.shape)).astype(np.float32),
                a=factors.a + (0.001 * random.standard_normal(factors.a.shape)).astype(np.float32),
            )
            for name, factors in initial.layers.items()
        }
        made.append(AdapterState(layers))
    return made


@dataclass(eq=False)
class FleetGrid(InProcessGrid):
    """A grid in this process. A reply is made when it is pulled, so replies take no memory.

    A few dozen distinct adapters are sent over and over; each reply is decoded anew.

    Attributes
    ----------
    shapes : LayerShapes
        Of the adapters.
    upload_per_rank : int
        Bytes of one rank that the devices reckon with, by which they get their ranks: those of the
        whole model, where `shapes` are a part of it.
    count : int
        Devices; their classes and tasks come in turn.
    seed : int
        Of embeddings and adapters.
    seconds : float
        Processor seconds spent here, which are not the server's.
    trained : list[Delivery]
        Training replies so far.
    """

    shapes: LayerShapes
    upload_per_rank: int
    count: int
    seed: int = 0
    seconds: float = 0.0
    trained: list[Delivery] = field(default_factory=list)
    _asked: dict[str, Message] = field(default_factory=dict)
    _adapters: dict[int, list[ArrayRecord]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        common, *own = (
            row / np.linalg.norm(row) for row in random.standard_normal((1 + TASKS, _HIDDEN))
        )
        self._middles = [common * _ACROSS**0.5 + one * (1 - _ACROSS) ** 0.5 for one in own]
        self._random = random

    def get_node_ids(self) -> Iterable[int]:
        return range(_FIRST_ID, _FIRST_ID + self.count)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        begun = time.process_time()
        names = []
        for message in messages:
            name = self.taken(message)
            self._asked[name] = message
            names.append(name)
        self.seconds += time.process_time() - begun
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        begun = time.process_time()
        asked = [self._asked.pop(name) for name in message_ids if name in self._asked]
        replies = [Message(content=self._answer(message), reply_to=message) for message in asked]
        now = time.process_time()
        self.seconds += now - begun
        if asked and asked[0].metadata.message_type == MessageType.TRAIN:
            delivery = Delivery(time.perf_counter(), now - self.seconds)
            self.trained += [delivery] * len(asked)
        return replies

    def _answer(self, message: Message) -> RecordDict:
        index = message.metadata.dst_node_id - _FIRST_ID
        kind = message.metadata.message_type
        if kind == PROFILE_QUERY:
            return self._profile(index).to_record()
        if kind == MessageType.EVALUATE:
            measured = MetricRecord({"num-examples": 8, "num-tokens": 200, "held-out-loss": 3.0})
            return RecordDict({METRICS_KEY: measured})
        sent = message.content.array_records[ARRAYS_KEY]
        rank = next(a.shape[0] for name, a in sent.items() if name.endswith(".lora_A"))
        if rank not in self._adapters:
            made = trained_adapters(self.shapes, rank, seed=self.seed)
            self._adapters[rank] = [adapter.to_arrays() for adapter in made]
        metrics = MetricRecord(
            {"num-examples": 8 + index % 32, "scaling": 1.0, "train-loss": 3.0, "seconds": 9.0}
        )
        arrays = self._adapters[rank][index % _DISTINCT]
        return RecordDict({ARRAYS_KEY: arrays, METRICS_KEY: metrics})

    def _profile(self, index: int) -> DeviceProfile:
        device = list(DEVICE_CLASSES.values())[index % len(DEVICE_CLASSES)]
        # Tasks change only after all classes had the one before.
        task = index // len(DEVICE_CLASSES) % TASKS
        noise = self._random.standard_normal(_HIDDEN) * _WITHIN / _HIDDEN**0.5
        vector = self._middles[task] + noise
        low, high = _STEP_SECONDS
        return DeviceProfile(
            device=device.name,
            label=f"task-{task}",
            identity=f"name:device-{index}",
            memory_bytes=device.memory_bytes,
            fixed_bytes=0,
            bytes_per_rank=COPIES_PER_FACTOR * self.upload_per_rank,
            upload_per_rank=self.upload_per_rank,
            step_ranks=_STEP_RANKS,
            step_seconds=(low * device.slowdown, high * device.slowdown),
            bandwidth=device.bandwidth,
            num_examples=32,
            embedding=(vector / np.linalg.norm(vector)).astype(np.float32),
            embedding_error=_WITHIN / 2,
        )
