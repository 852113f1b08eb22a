"""What the devices of a run reach alone in the same time: the comparison on the page.

``python -m integration_tests.demo.alone RUN`` trains them and leaves the losses in that folder.
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from floe_plugins.files import write_file
from flower_strategy.adapters.adapter import initial_adapter
from flower_strategy.config import RunConfig
from flower_strategy.data import load_local_data
from flower_strategy.device.base_model import BaseModel, layer_shapes, load_base_model
from flower_strategy.device.loss import held_out_loss
from flower_strategy.device.training import Progress, train_adapter
from flower_strategy.profile import DeviceProfile
from flower_strategy.ranks.steps import planned_steps
from flower_strategy.run_folder import result_folder
from flower_strategy.settings import TrainingSettings
from integration_tests.demo.federation import APP, DEVICES, DemoError, Federation
from integration_tests.harness.processes import end, spawn, tail

#: Beside a result's manifest: a later result does not change it, nor inherit it.
FILE = "alone.json"

PROCESSES = 2

#: The model, and how it is trained, for the processes that are forked.
_loaded: list[tuple[BaseModel, TrainingSettings]] = []

Losses = dict[str, list[float]]
"""Cluster -> a loss before training, and one after the time of each round."""


@dataclass(frozen=True)
class _Lone:
    """A device of a run that is left to itself.

    Attributes
    ----------
    partition : int
        Its share of the data.
    rank : int
        The rank that it trained at in the run.
    steps : list[int]
        Steps that it takes during each round of the run.
    """

    partition: int
    rank: int
    steps: list[int]


@contextmanager
def training_alone(federation: Federation, *, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Train the devices alone in processes of their own, which end with the block.

    The servers leave them time: each has one core, and is idle while the other model answers alone.
    """
    command = [sys.executable, "-m", "integration_tests.demo.alone", str(federation.folder)]
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


def train_alone(federation: Federation) -> Losses:
    """Train each device of a run alone, for as long as the run's rounds on its own clock.

    It has the examples, their order, the initial adapter, the rank, the learning rate and the batch
    size that it had in the run, and the run's limit of passes over its examples. While the run's
    devices send or wait for the slowest, it trains. The losses are kept beside the run's result,
    see `read_alone`.

    Parameters
    ----------
    federation : Federation
        A run on the app's default data, in which all devices have trained.

    Returns
    -------
    Losses
        Held-out losses, nats per response token: the mean over a cluster's devices, weighted by
        their tokens as the cluster's own.
    """
    settings = TrainingSettings(**federation.manifest["training"])
    lones = {
        device["node"]: _lone(federation, settings, device)
        for device in federation.manifest["devices"]
    }
    # Forks share the model, and what has been imported.
    context = multiprocessing.get_context("fork")
    _loaded.append((load_base_model(settings.model, settings.dtype), settings))
    # The longest first, so that no core is idle at the end.
    longest = sorted(lones, key=lambda node: sum(lones[node].steps), reverse=True)
    with ProcessPoolExecutor(PROCESSES, context) as processes:
        asked = {node: processes.submit(_losses, lones[node]) for node in longest}
        measured = {node: future.result() for node, future in asked.items()}
    found = {
        cluster["name"]: [
            # Before training it has the run's own adapter.
            cluster["loss_before"],
            *(
                float(np.average(losses, weights=tokens))
                for losses, tokens in (
                    zip(*devices, strict=True)
                    for devices in zip(
                        *(measured[node] for node in cluster["members"]), strict=True
                    )
                )
            ),
        ]
        for cluster in federation.manifest["clusters"]
    }
    write_file(result_folder(federation.folder) / FILE, json.dumps(found))
    return found


def read_alone(federation: Federation) -> Losses:
    """Return what `train_alone` found; empty if nobody has called it for this run."""
    file = result_folder(federation.folder) / FILE
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def _lone(federation: Federation, settings: TrainingSettings, device: Mapping[str, Any]) -> _Lone:
    rounds = [entry for entry in federation.history["rounds"] if entry["round"]]
    trained = [
        entry["devices"][device["node"]]
        for entry in rounds
        if entry["devices"].get(device["node"], {}).get("steps")
    ]
    rank = trained[0]["rank"]
    training = sum(entry["observed_seconds"] - entry["transfer_seconds"] for entry in trained)
    seconds = training / sum(entry["steps"] for entry in trained)
    profile = DeviceProfile(
        device=device["device"],
        memory_bytes=device["memory_bytes"],
        fixed_bytes=0,
        bytes_per_rank=0,
        upload_per_rank=0,
        bandwidth=math.inf,
        step_ranks=(rank, rank),
        step_seconds=(seconds, seconds),
        num_examples=device["examples"],
        embedding=np.array(device["embedding"], np.float32),
    )
    steps: list[int] = []
    for number, now in enumerate(elapsed(federation)[1:], 1):
        steps.append(
            planned_steps(
                profile,
                rank,
                settings,
                # Nobody waits for it: what a round leaves of a step, the next one goes on with.
                deadline=now - sum(steps) * seconds,
                taken=sum(steps),
                server_round=number,
                num_rounds=len(rounds),
            )
        )
    return _Lone(int(device["identity"].removeprefix("partition:")), rank, steps)


def elapsed(federation: Federation) -> list[float]:
    """Return the devices' seconds from the start to the end of each round, the first being 0."""
    rounds = federation.history["rounds"]
    return list(itertools.accumulate(entry["device_seconds"] for entry in rounds))


def _losses(lone: _Lone) -> list[tuple[float, int]]:
    """Return a device's held-out loss and its tokens after the time of each round."""
    base, settings = _loaded[-1]
    place = {"partition-id": lone.partition, "num-partitions": DEVICES}
    data = load_local_data(RunConfig.from_dict({}), place, simulated=True)
    shapes = layer_shapes(base, settings.target_modules)
    adapter = initial_adapter(shapes, rank=lone.rank, seed=settings.seed)
    adapter, progress = adapter.with_scaling(settings.scaling(lone.rank)), Progress()
    found = []
    for number, steps in enumerate(lone.steps, 1):
        outcome = train_adapter(
            base,
            adapter,
            data.train,
            settings.changed(local_steps=steps),
            progress=progress,
            order_seed=(settings.seed, lone.partition),
            server_round=number,
            num_rounds=len(lone.steps),
        )
        adapter, progress = outcome.adapter, outcome.progress
        found.append(held_out_loss(base, adapter, data.held_out, settings))
    return found


def main() -> None:
    """Train the devices of the run whose folder is the only argument."""
    # The servers' answers are timed; nobody waits for this yet. Forks are as nice.
    os.nice(5)
    train_alone(Federation.read(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
