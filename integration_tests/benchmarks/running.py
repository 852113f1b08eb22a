"""Running one benchmark of the suite as a reader would, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from floe_plugins.errors import FloeError
from integration_tests.benchmarks.data import Data
from integration_tests.benchmarks.suite import Benchmark

ROOT = Path(__file__).resolve().parents[2]


class FailedError(FloeError):
    """A benchmark ended without a result; says how."""


def run(
    benchmark: Benchmark, *, quick: bool, tiny: str = "", data: Data | None = None
) -> dict[str, Any]:
    """Run a benchmark and return its JSON; its progress goes to standard error.

    Parameters
    ----------
    benchmark : Benchmark
    quick : bool
        Whether it is run on little.
    tiny : str
        The tiny model's folder, where a quick run asks for one.
    data : Data, optional
        Files to read in place of those that it would.

    Raises
    ------
    FailedError
        It ended with another status than 0, or printed something else than one JSON object.
    """
    command = [sys.executable, "-m", f"integration_tests.benchmarks.{benchmark.name}"]
    done = subprocess.run(
        [*command, *benchmark.arguments(quick=quick, tiny=tiny, data=data), "--json"],
        # One thread per process, as the servers have it: two cores are soon full.
        env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **os.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise FailedError(f"{benchmark.name} ended with status {done.returncode}.")
    try:
        values = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise FailedError(f"{benchmark.name} printed no JSON: {error}.") from error
    if not isinstance(values, dict):
        raise FailedError(f"{benchmark.name} printed no JSON object: {type(values).__name__}.")
    return values
