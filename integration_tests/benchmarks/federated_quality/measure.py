"""Running levels x seeds x methods in worker processes; every result is kept as it comes."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError
from integration_tests.benchmarks.federated_quality.protocol import Protocol

Record = dict[str, Any]
"""One method at one level and seed: ``level``, ``seed``, ``method``, ``loss`` and what it took."""

_POLL_SECONDS = 1.0
_ALONE = ("local",)  # shares no training with other methods, and is as long as all of them


@dataclass(frozen=True)
class Task:
    """Methods of one level and seed that one process runs, so that they share first rounds."""

    level: float
    seed: int
    methods: tuple[str, ...]


def plan(
    levels: Sequence[float],
    seeds: Sequence[int],
    methods: Sequence[str],
    *,
    done: Sequence[Record] = (),
) -> list[Task]:
    """Return what is left to do, in pieces of about the same length."""
    finished = {(record["level"], record["seed"], record["method"]) for record in done}
    tasks = []
    for seed in seeds:
        for level in levels:
            left = [name for name in methods if (level, seed, name) not in finished]
            alone = tuple(name for name in left if name in _ALONE)
            together = tuple(name for name in left if name not in _ALONE)
            tasks += [Task(level, seed, names) for names in (alone, together) if names]
    return tasks


def run_task(
    protocol: Protocol, task: Task, emit: Callable[[Record], None], *, remember: bool = True
) -> None:
    """Run a task's methods one after another; `emit` gets each record as soon as it is there."""
    from integration_tests.benchmarks.federated_quality.methods import METHODS
    from integration_tests.benchmarks.federated_quality.workbench import Workbench
    from integration_tests.benchmarks.federated_quality.world import World

    # Every round is logged otherwise; warnings (a refused reply) still show.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    bench = Workbench(World(protocol, level=task.level, seed=task.seed), remember=remember)
    for name in task.methods:
        started, trained = time.monotonic(), bench.trainings
        outcome = METHODS[name](bench)
        losses = [bench.held_out(node, outcome.served[node]) for node in sorted(outcome.served)]
        emit(
            {
                "level": task.level,
                "seed": task.seed,
                "method": name,
                "loss": math.fsum(losses) / len(losses),
                "device_losses": losses,
                "rounds": outcome.rounds,
                "virtual_seconds": outcome.seconds,
                "steps": outcome.steps,
                "megabytes_down": outcome.bytes_down / 1e6,
                "megabytes_up": outcome.bytes_up / 1e6,
                **outcome.details,
                "trainings": bench.trainings - trained,
                "wall_seconds": time.monotonic() - started,
            }
        )


def run_tasks(protocol: Protocol, tasks: Sequence[Task], *, jobs: int) -> Iterator[Record]:
    """Run tasks in `jobs` processes of one thread each and yield records as they come."""
    context = multiprocessing.get_context("spawn")
    records: multiprocessing.Queue[Record] = context.Queue()
    with ProcessPoolExecutor(
        max_workers=jobs, mp_context=context, initializer=_prepare, initargs=(records,)
    ) as pool:
        futures = [pool.submit(_work, protocol, task) for task in tasks]
        missing = sum(len(task.methods) for task in tasks)
        while missing:
            try:
                yield records.get(timeout=_POLL_SECONDS)
                missing -= 1
            except queue.Empty:
                for future in futures:
                    if future.done() and (error := future.exception()) is not None:
                        pool.shutdown(wait=False, cancel_futures=True)
                        raise error from None


_records: multiprocessing.Queue[Record]


def _prepare(records: multiprocessing.Queue[Record]) -> None:
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    global _records
    _records = records
    torch.set_num_threads(1)
    threadpool_limits(limits=1)


def _work(protocol: Protocol, task: Task) -> None:
    run_task(protocol, task, _records.put)


class Journal:
    """The JSONL file that an interrupted benchmark goes on from.

    Its first line holds the protocol, every other a record.

    Parameters
    ----------
    path : Path, optional
        The file; without one nothing is kept.
    protocol : dict
        The protocol, as JSON values.

    Raises
    ------
    ConfigError
        The file holds another protocol's records.
    """

    def __init__(self, path: Path | None, protocol: dict[str, Any]) -> None:
        self._path = path
        self.records: list[Record] = []
        if path is None:
            return
        if path.exists() and (lines := path.read_text("utf-8").splitlines()):
            kept = json.loads(lines[0])["protocol"]
            if kept != protocol:
                odd = sorted(key for key in protocol if kept.get(key) != protocol[key])
                raise ConfigError(
                    f"--resume {path} was written with another {', '.join(odd)}; give another file."
                )
            # A line that was cut off while it was written is measured anew.
            self.records = [json.loads(line) for line in lines[1:] if line.endswith("}")]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write([{"protocol": protocol}, *self.records], mode="w")

    def add(self, record: Record) -> None:
        """Keep one more record."""
        self.records.append(record)
        self._write([record], mode="a")

    def _write(self, rows: Sequence[Record], *, mode: str) -> None:
        if self._path is not None:
            with self._path.open(mode, encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
