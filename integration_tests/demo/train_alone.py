"""Trains the devices of a run alone, in a process of its own: see `alone`.

``python -m integration_tests.demo.train_alone RUN`` leaves the losses in that folder.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
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
from flower_strategy.settings import TrainingSettings
from integration_tests.demo.alone import Losses, elapsed, file_of
from integration_tests.demo.federation import DEVICES, Federation

PROCESSES = 2

#: The model, and how it is trained, for the processes that are forked.
_loaded: list[tuple[BaseModel, TrainingSettings]] = []


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


def train_alone(federation: Federation) -> Losses:
    """Train each device of a run alone, for as long as the run's rounds on its own clock.

    It has the examples, their order, the initial adapter, the rank, the learning rate and the batch
    size that it had in the run, and the run's limit of passes over its examples. While the run's
    devices send or wait for the slowest, it trains. The losses are kept beside the run's result,
    see `alone.read_alone`.

    Parameters
    ----------
    federation : Federation
        A run on the app's default data. A device that never trained in it, since no reply of it
        arrived, is not compared.

    Returns
    -------
    Losses
        Held-out losses, nats per response token: the mean over a cluster's devices, weighted by
        their tokens as the cluster's own.
    """
    settings = TrainingSettings(**federation.manifest["training"])
    lones = {
        device["node"]: _lone(federation, settings, device, trained)
        for device in federation.manifest["devices"]
        if (trained := _trained(federation, device["node"]))
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
                        *(measured[node] for node in cluster["members"] if node in measured),
                        strict=True,
                    )
                )
            ),
        ]
        for cluster in federation.manifest["clusters"]
    }
    write_file(file_of(federation), json.dumps(found))
    return found


def _trained(federation: Federation, node: str) -> list[dict[str, Any]]:
    """Return what the history says of the rounds in which a device trained."""
    rounds = [entry for entry in federation.history["rounds"] if entry["round"]]
    told = [entry["devices"].get(node, {}) for entry in rounds]
    return [entry for entry in told if entry.get("steps")]


def _lone(
    federation: Federation,
    settings: TrainingSettings,
    device: Mapping[str, Any],
    trained: Sequence[Mapping[str, Any]],
) -> _Lone:
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
                num_rounds=sum(entry["round"] > 0 for entry in federation.history["rounds"]),
            )
        )
    return _Lone(int(device["identity"].removeprefix("partition:")), rank, steps)


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
    # Forks are as nice.
    os.nice(5)
    train_alone(Federation.read(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
