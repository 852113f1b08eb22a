"""A grid of thousands of synthetic devices, and the real strategy with a watch on its stages.

The grid has real messages of real shapes, and no training.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NamedTuple

import numpy as np
import psutil
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict

from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import AdapterState, LayerShapes, LoraFactors, initial_adapter
from flower_strategy.device.hardware import DEVICE_CLASSES
from flower_strategy.device.training_cost import COPIES_PER_FACTOR
from flower_strategy.messages import (
    ARRAYS_KEY,
    BEGAN_KEY,
    CONFIG_KEY,
    METRICS_KEY,
    PROFILE_QUERY,
)
from flower_strategy.profile import DeviceProfile
from flower_strategy.server.checkpoint import ARRAYS_FILE, CHECKPOINTS_FOLDER, STATE_FILE
from flower_strategy.strategy import FloeStrategy
from flower_strategy.testing.grids import InProcessGrid

_SAMPLE_SECONDS = 0.02
TASKS = 4
_FIRST_ID = 1_000
_DISTINCT = 6
# As SmolLM2's embeddings lie: cosine 0.97 to 0.99 within a task, 0.6 to 0.7 across.
_HIDDEN = 576
_ACROSS, _WITHIN = 0.7, 0.12
_STEP_RANKS, _STEP_SECONDS = (4, 32), (2.2, 2.5)


class Delivery(NamedTuple):
    """One training reply that left the grid."""

    at: float  # seconds on the clock of ``time.perf_counter``
    server_seconds: float  # processor seconds of the process so far, without the grid's


def trained_adapters(
    shapes: LayerShapes, rank: int, *, count: int = _DISTINCT, seed: int = 0
) -> list[AdapterState]:
    """Return adapters as devices send them back: the common ``a``, a ``b`` of their own."""
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


def train_reply(arrays: ArrayRecord, *, examples: int) -> RecordDict:
    """Return what a device answers after training in the first round."""
    metrics = MetricRecord(
        {
            "num-examples": examples,
            "scaling": 1.0,
            "train-loss": 3.0,
            "seconds": 9.0,
            "steps": 3,
            BEGAN_KEY: 1,
        }
    )
    return RecordDict({ARRAYS_KEY: arrays, METRICS_KEY: metrics})


@dataclass(eq=False)
class FleetGrid(InProcessGrid):
    """A grid in this process. A reply is made when it is pulled, so replies take no memory.

    A few dozen distinct adapters are sent over and over; each reply is decoded anew.
    """

    shapes: LayerShapes  # of the adapters
    #: Bytes of one rank that the devices reckon with, by which they get their ranks: those of the
    #: whole model, where `shapes` are a part of it.
    upload_per_rank: int
    count: int  # devices; their classes and tasks come in turn
    seed: int = 0  # of embeddings and adapters
    seconds: float = 0.0  # processor seconds spent here, which are not the server's
    trained: list[Delivery] = field(default_factory=list)  # training replies so far
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
        asked = {self.taken(message): message for message in messages}
        self._asked |= asked
        self.seconds += time.process_time() - begun
        return list(asked)

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
        # The first round's message has no arrays.
        rank = int(str(message.content.config_records[CONFIG_KEY]["rank"]))
        if rank not in self._adapters:
            made = trained_adapters(self.shapes, rank, seed=self.seed)
            self._adapters[rank] = [int8.encode(adapter) for adapter in made]
        return train_reply(self._adapters[rank][index % _DISTINCT], examples=8 + index % 32)

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
            bytes_per_rank=4 * COPIES_PER_FACTOR * self.upload_per_rank,
            upload_per_rank=self.upload_per_rank,
            step_ranks=_STEP_RANKS,
            step_seconds=(low * device.slowdown, high * device.slowdown),
            bandwidth=device.bandwidth,
            num_examples=32,
            embedding=(vector / np.linalg.norm(vector)).astype(np.float32),
            embedding_error=_WITHIN / 2,
        )


class Watch:
    """Processor seconds of this process, without the grid's, and highest memory per stage.

    The seconds of a stage within another do not count for the outer one.
    """

    def __init__(self, grid: FleetGrid) -> None:
        self.grid = grid
        self.seconds: dict[str, float] = {}
        self.peak_mib: dict[str, float] = {}
        self.checkpoints: list[dict[str, int]] = []  # bytes of each one's files
        self.samples: list[tuple[float, float]] = []  # time and resident MiB
        self._open: list[str] = []
        self._process = psutil.Process()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._open.append(name)
        begun, elsewhere = time.process_time(), self.grid.seconds
        try:
            yield
        finally:
            took = time.process_time() - begun - (self.grid.seconds - elsewhere)
            self._open.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + took
            if self._open:
                outer = self._open[-1]
                self.seconds[outer] = self.seconds.get(outer, 0.0) - took

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            resident = self._process.memory_info().rss / 2**20
            self.samples.append((time.perf_counter(), resident))
            # The list may change meanwhile: a copy is one operation.
            for name in list(self._open):
                self.peak_mib[name] = max(resident, self.peak_mib.get(name, 0.0))


def _timed(stage: str, name: str) -> Callable[..., Any]:
    step = getattr(FloeStrategy, name)

    @wraps(step)
    def timed(self: WatchedStrategy, *arguments: Any, **options: Any) -> Any:
        with self.watch.stage(stage):
            return step(self, *arguments, **options)

    return timed


class WatchedStrategy(FloeStrategy):
    """`FloeStrategy` with its steps unchanged but timed."""

    watch: Watch

    admit = _timed("profiles", "admit")
    assign_clusters = _timed("clustering", "assign_clusters")
    configure_train = _timed("sending", "configure_train")
    aggregate_train = _timed("replies", "aggregate_train")
    move_adapters = _timed("means", "move_adapters")
    configure_evaluate = _timed("evaluation", "configure_evaluate")
    aggregate_evaluate = _timed("evaluation", "aggregate_evaluate")
    prepare_next_round = _timed("next ranks", "prepare_next_round")
    export = _timed("export", "export")

    def save(self, server_round: int) -> None:
        with self.watch.stage("checkpoint"):
            super().save(server_round)
        assert self.output is not None
        folder = self.output / CHECKPOINTS_FOLDER / f"round-{server_round:04d}"
        sizes = {name: (folder / name).stat().st_size for name in (STATE_FILE, ARRAYS_FILE)}
        self.watch.checkpoints.append(sizes)
