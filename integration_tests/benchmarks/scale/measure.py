"""Whole runs of the real strategy over ever more devices."""

from __future__ import annotations

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from flower_strategy.adapters.adapter import LayerShapes, initial_adapter
from flower_strategy.device.training_cost import upload_per_rank
from flower_strategy.ranks.policies import DeadlinePolicy
from flower_strategy.server.checkpoint import ARRAYS_FILE, STATE_FILE, pack_round
from flower_strategy.settings import CheckpointSettings, TrainingSettings
from integration_tests.benchmarks.scale.fleet import Delivery, FleetGrid
from integration_tests.benchmarks.scale.watching import Watch, WatchedStrategy

RANKS = (4, 8, 16, 32)
_PARTS = 10
_PATIENCE = 1e9


def run(model: str, shapes: LayerShapes, *, blocks: int, devices: int, seed: int) -> dict[str, Any]:
    """Run the evaluation before training and one round over all devices.

    Parameters
    ----------
    model : str
        Name of the base model; it is not loaded.
    shapes : LayerShapes
        All layers of the model.
    blocks : int
        How many of its blocks the adapters have, from the first: with all, 10,000 replies would
        take the better part of an hour.
    devices : int
        Devices.
    seed : int
        Of embeddings and adapters.

    Returns
    -------
    dict
        Seconds and peak memory per stage, memory and seconds over the replies in tenths, bytes,
        checkpoint sizes.
    """
    # A line per reply otherwise.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    some = first_blocks(shapes, blocks)
    per_rank = upload_per_rank(shapes)
    grid = FleetGrid(some, per_rank, devices, seed=seed)
    with tempfile.TemporaryDirectory() as folder, Watch(grid) as watch:
        strategy = WatchedStrategy(
            training=TrainingSettings(model=model, seed=seed),
            rank_policy=DeadlinePolicy(candidates=RANKS),
            output=Path(folder),
            checkpoints=CheckpointSettings(keep=1),
        )
        strategy.watch = watch
        initial = initial_adapter(some, rank=strategy.server_rank, seed=seed)
        strategy.start(grid, initial.to_arrays(), num_rounds=1, timeout=_PATIENCE)
    (record,) = [each for each in strategy.state.history if each.round == 1]
    ranks = Counter(device.rank for device in record.devices.values())
    after = watch.checkpoints[-1]
    return {
        "devices": devices,
        "clusters": len(strategy.state.clusters),
        "replies": sum(outcome.replies for outcome in record.clusters.values()),
        "ranks": {str(rank): count for rank, count in sorted(ranks.items())},
        "seconds": watch.seconds,
        "peak_mib": watch.peak_mib,
        "tenths": _tenths(watch, grid.trained),
        "bytes_up": sum(each.bytes_up for each in record.devices.values()),
        "bytes_whole_model": per_rank * sum((rank or 0) * count for rank, count in ranks.items()),
        "checkpoint_bytes": sum(after.values()),
        "checkpoint_state_bytes": after[STATE_FILE],
        "checkpoint_arrays_bytes": after[ARRAYS_FILE],
        "history_bytes_per_round": len(json.dumps(pack_round(record))),
    }


def first_blocks(shapes: LayerShapes, blocks: int) -> dict[str, tuple[int, int]]:
    """Return the layers of a model's first blocks, in the order of its layers."""
    some = _blocks(shapes)[:blocks]
    return {name: shape for name, shape in shapes.items() if _block(name) in some}


def count_blocks(shapes: LayerShapes) -> int:
    """Return the number of a model's blocks."""
    return len(_blocks(shapes))


def _blocks(shapes: LayerShapes) -> list[str]:
    return list(dict.fromkeys(map(_block, shapes)))


def _block(layer: str) -> str:
    return next((part for part in layer.split(".") if part.isdigit()), layer)


def _tenths(watch: Watch, delivered: Sequence[Delivery]) -> list[dict[str, float]]:
    """Return seconds and resident memory of the replies, tenth by tenth."""
    found, count = [], len(delivered)
    edges = [at * count // _PARTS for at in range(_PARTS + 1)]
    for begin, end in pairwise(edges):
        first, last = delivered[begin], delivered[max(begin, end - 1)]
        took = last.server_seconds - first.server_seconds
        memory = [mib for at, mib in watch.samples if first.at <= at <= last.at]
        if took and memory:
            found.append(
                {
                    "replies": end,
                    "seconds_each": took / (end - begin),
                    "resident_mib": max(memory),
                }
            )
    return found
