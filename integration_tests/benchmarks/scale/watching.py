"""The real strategy with a stopwatch on each of its stages, and the memory that they take."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from flower_strategy.server.checkpoint import ARRAYS_FILE, CHECKPOINTS_FOLDER, STATE_FILE
from flower_strategy.strategy import FloeStrategy
from integration_tests.benchmarks.scale.fleet import FleetGrid

_SAMPLE_SECONDS = 0.02


class Watch:
    """Seconds and highest resident memory per stage.

    Parameters
    ----------
    grid : FleetGrid
        Its own seconds are not counted.

    Attributes
    ----------
    seconds : dict[str, float]
        Stage -> processor seconds of this process, outside the grid; those of a stage within
        another do not count for the outer one.
    peak_mib : dict[str, float]
        Stage -> highest resident memory while it ran.
    checkpoints : list[dict[str, int]]
        Bytes of every checkpoint's files.
    samples : list[tuple[float, float]]
        Time and resident MiB.
    """

    def __init__(self, grid: FleetGrid) -> None:
        self.grid = grid
        self.seconds: dict[str, float] = {}
        self.peak_mib: dict[str, float] = {}
        self.checkpoints: list[dict[str, int]] = []
        self.samples: list[tuple[float, float]] = []
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
        """Time what is done within."""
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


class WatchedStrategy(FloeStrategy):
    """`FloeStrategy`, step by step as it is; only timed."""

    watch: Watch

    def admit(self, grid: Grid, timeout: float) -> None:
        with self.watch.stage("profiles"):
            super().admit(grid, timeout)

    def assign_clusters(self, nodes: Sequence[int]) -> None:
        with self.watch.stage("clustering"):
            super().assign_clusters(nodes)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        with self.watch.stage("sending"):
            return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        with self.watch.stage("replies"):
            return super().aggregate_train(server_round, replies)

    def move_adapters(self, means: dict[str, Any]) -> None:
        with self.watch.stage("means"):
            super().move_adapters(means)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        with self.watch.stage("evaluation"):
            return super().configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        with self.watch.stage("evaluation"):
            return super().aggregate_evaluate(server_round, replies)

    def prepare_next_round(self, server_round: int) -> None:
        with self.watch.stage("next ranks"):
            super().prepare_next_round(server_round)

    def export(self) -> None:
        with self.watch.stage("export"):
            super().export()

    def save(self, server_round: int) -> None:
        with self.watch.stage("checkpoint"):
            super().save(server_round)
        assert self.output is not None
        folder = self.output / CHECKPOINTS_FOLDER / f"round-{server_round:04d}"
        self.watch.checkpoints.append(
            {name: (folder / name).stat().st_size for name in (STATE_FILE, ARRAYS_FILE)}
        )
