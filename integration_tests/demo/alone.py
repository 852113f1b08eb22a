"""What the devices of a run reach alone in the same time: the comparison on the page."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flower_strategy.run_folder import result_folder
from integration_tests.demo.federation import APP, DemoError, Federation
from integration_tests.harness.processes import end, spawn, tail

Losses = dict[str, list[float]]
"""Cluster -> a loss before training, and one after the time of each round."""


def file_of(federation: Federation) -> Path:
    """Return where the losses are: a later result does not change the file, nor inherit it."""
    return result_folder(federation.folder) / "alone.json"


@contextmanager
def training_alone(federation: Federation, *, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Train the devices alone in processes of their own, which end with the block.

    They are nice, since answers are waited for and this is not.
    """
    command = [sys.executable, "-m", "integration_tests.demo.train_alone", str(federation.folder)]
    log.unlink(missing_ok=True)
    process = spawn(command, log=log, env={"OMP_NUM_THREADS": "1"}, cwd=APP)
    try:
        yield process
    finally:
        end(process)


def finish(process: subprocess.Popen[bytes], *, log: Path) -> None:
    """Wait for a process of `training_alone`.

    Raises
    ------
    DemoError
        It failed; quotes the end of its log.
    """
    if process.wait():
        raise DemoError(f"Training each device alone failed:\n{tail(log)}")


def read_alone(federation: Federation) -> Losses:
    """Return the losses; empty if nobody has trained this run's devices alone."""
    file = file_of(federation)
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def elapsed(federation: Federation) -> list[float]:
    """Return the devices' seconds from the start to the end of each round, the first being 0."""
    rounds = federation.history["rounds"]
    return list(itertools.accumulate(entry["device_seconds"] for entry in rounds))
