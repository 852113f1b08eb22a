"""Running one benchmark of the suite as a reader would, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from floe_plugins.errors import FloeError
from integration_tests.benchmarks.data import Data
from integration_tests.benchmarks.suite import Benchmark

ROOT = Path(__file__).resolve().parents[2]


#: Longer than a benchmark needs to end its servers.
_PATIENCE_S = 30.0


class FailedError(FloeError):
    """A benchmark ended without a result; says how."""


class Runner:
    """Runs benchmarks, from any thread, until it is stopped.

    Parameters
    ----------
    quick : bool
        Whether on little.
    tiny : str
        The tiny model's folder, where a quick run asks for one.
    data : Data, optional
        Files to read in place of those that benchmarks would.
    """

    def __init__(self, *, quick: bool, tiny: str = "", data: Data | None = None) -> None:
        self._quick, self._tiny, self._data = quick, tiny, data
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def run(self, benchmark: Benchmark) -> dict[str, Any]:
        """Run a benchmark and return its JSON; its progress goes to standard error.

        Raises
        ------
        FailedError
            It ended with another status than 0, or printed something else than one JSON object.
        """
        process = self._begin(benchmark)
        out, _ = process.communicate()
        with self._lock:
            self._running.discard(process)
        if process.returncode != 0:
            raise FailedError(f"{benchmark.name} ended with status {process.returncode}.")
        return _object(benchmark.name, out)

    def stop(self) -> None:
        """End what is running, and begin nothing more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=_PATIENCE_S)
                    break
                # Libraries swallow what interrupts them while they are imported.
                process.terminate()

    def _begin(self, benchmark: Benchmark) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", f"integration_tests.benchmarks.{benchmark.name}"]
        options = benchmark.arguments(quick=self._quick, tiny=self._tiny, data=self._data)
        with self._lock:
            if self._stopped:
                raise FailedError(f"{benchmark.name} was not begun.")
            process = subprocess.Popen(
                [*command, *options, "--json"],
                # One thread per process, as the servers have it: two cores are soon full.
                env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **os.environ},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                # Ctrl-C comes to this process alone, and `stop` to that one: a second signal would
                # interrupt the ending of its servers.
                start_new_session=True,
            )
            self._running.add(process)
        return process


def _object(name: str, out: str) -> dict[str, Any]:
    try:
        values = json.loads(out)
    except json.JSONDecodeError as error:
        raise FailedError(f"{name} printed no JSON: {error}.") from error
    if not isinstance(values, dict):
        raise FailedError(f"{name} printed no JSON object: {type(values).__name__}.")
    return values
