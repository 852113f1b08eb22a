"""Trains at every rank, and derives the rounds of each class of device."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import initial_adapter
from flower_strategy.data import read_examples
from flower_strategy.data.embedded import make_examples
from flower_strategy.data.files import find_files
from flower_strategy.device.base_model import layer_shapes, load_base_model
from flower_strategy.device.hardware import Device, Stopwatch, parse_device
from flower_strategy.device.training import train_adapter
from flower_strategy.device.training_cost import TrainingCost, measure_training
from flower_strategy.profile import DeviceProfile
from flower_strategy.ranks.cost import StepCost, predicted_seconds
from flower_strategy.ranks.policies import DeadlinePolicy
from flower_strategy.settings import TrainingSettings
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import task_files

_EXAMPLES = 64
_DEADLINES = 25


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measurements of this machine."""

    step_seconds: Mapping[int, float]  # rank, ascending -> of a step in training, at slowdown 1
    upload_bytes: Mapping[int, int]  # rank -> of an adapter's arrays in a message
    costs: tuple[TrainingCost, ...]  # what the device measured of itself, each time
    examples: int  # for training, on a device
    local_steps: int  # of a round

    @property
    def cost(self) -> TrainingCost:
        low, high = (
            statistics.median(cost.step_seconds[at] for cost in self.costs) for at in (0, 1)
        )
        return replace(self.costs[0], step_seconds=(low, high))


def measure(options: cli.Namespace) -> dict[str, Any]:
    """Time all ranks and return the figures."""
    torch.set_num_threads(options.threads)
    classes = {device.name: device for device in map(parse_device, options.devices)}
    base = load_base_model(options.model)
    files = task_files() if options.data is None else list(find_files(options.data).values())
    if files:
        each = -(-_EXAMPLES // len(files))
        examples = tuple(example for file in files for example in read_examples(file)[:each])
    else:
        examples = tuple(make_examples("arithmetic", count=_EXAMPLES, seed=options.seed))
    named = ("model", "local_steps", "batch_size", "max_length", "seed")
    settings = TrainingSettings(**{name: getattr(options, name) for name in named})
    device = Device(name="this", memory_bytes=0, simulated=True)
    shapes = layer_shapes(base)
    initial = {
        rank: initial_adapter(shapes, rank=rank, seed=options.seed) for rank in options.ranks
    }
    costs: list[TrainingCost] = []
    seconds: dict[int, list[float]] = {rank: [] for rank in options.ranks}
    ends = (options.ranks[0], options.ranks[-1])
    for repeat in cli.progress(range(options.repeats), "rank_latency"):
        costs.append(measure_training(base, examples, settings, device, ranks=ends))
        for rank, adapter in initial.items():
            watch = Stopwatch(device, threads=torch.get_num_threads())
            train_adapter(base, adapter, examples, settings, order_seed=(options.seed, repeat))
            seconds[rank].append(watch.seconds() / settings.local_steps)
    measured = Measured(
        step_seconds={rank: statistics.median(all_of) for rank, all_of in seconds.items()},
        upload_bytes={
            rank: sum(len(array.data) for array in int8.encode(adapter).values())
            for rank, adapter in initial.items()
        },
        costs=tuple(costs),
        examples=len(examples),
        local_steps=options.local_steps,
    )
    keys = ("model", "seed", "repeats", "threads", "batch_size", "max_length", "local_steps")
    return {
        **{key: getattr(options, key) for key in keys},
        "step_seconds": {str(rank): all_of for rank, all_of in seconds.items()},
        "upload_bytes": {str(rank): size for rank, size in measured.upload_bytes.items()},
        "probes": [list(cost.step_seconds) for cost in costs],
        **compare(measured, classes),
    }


def compare(measured: Measured, classes: Mapping[str, Device]) -> dict[str, Any]:
    """Return the rounds of every class, the policy's ranks over deadlines, and equal ranks."""
    profiles = {name: _profile(measured, device) for name, device in classes.items()}
    found: dict[str, dict[str, Any]] = {
        name: {
            "slowdown": device.slowdown,
            "bandwidth": device.bandwidth,
            "rounds": [
                _round(measured, device, profiles[name], rank) for rank in measured.step_seconds
            ],
        }
        for name, device in classes.items()
    }
    seconds = {
        (name, each["rank"]): each["round_s"] for name in found for each in found[name]["rounds"]
    }
    ranks, deadline = _ranks(measured, profiles)
    own = max(seconds[name, rank] for name, rank in ranks.items() if rank is not None)
    largest = max(measured.step_seconds)
    slowest = max(profiles, key=lambda name: seconds[name, largest])
    first, last = 0.9 * min(seconds.values()), 1.1 * max(seconds.values())
    return {
        "classes": found,
        "single_probe_error_percent": _single_probes(measured),
        "deadlines": [
            {"deadline_s": tried, "ranks": _ranks(measured, profiles, tried)[0]}
            for tried in np.geomspace(first, last, _DEADLINES).tolist()
        ],
        # The policy's ranks at its own deadline, and the largest rank for everybody.
        "homogeneous": {
            "deadline_s": deadline,
            "ranks": ranks,
            "round_s": own,
            "homogeneous_s": seconds[slowest, largest],
            "slowest": slowest,
            "ratio": seconds[slowest, largest] / own,
        },
    }


def _round(measured: Measured, device: Device, profile: DeviceProfile, rank: int) -> dict[str, Any]:
    training = measured.local_steps * measured.step_seconds[rank] * device.slowdown
    upload = device.upload_seconds(measured.upload_bytes[rank])
    download = device.download_seconds(measured.upload_bytes[rank])
    whole = training + upload + download
    predicted = predicted_seconds(profile, rank, local_steps=measured.local_steps)
    return {
        "rank": rank,
        "training_s": training,
        "upload_s": upload,
        "download_s": download,
        "round_s": whole,
        "predicted_s": predicted,
        "error_percent": (predicted / whole - 1) * 100,
        "fitted": rank in profile.step_ranks,
    }


def _single_probes(measured: Measured) -> dict[str, float]:
    """Return how far single probes put a step off at the ranks that they did not time, percent."""
    errors = [
        (StepCost.fit(_profile_of(cost, measured)).at(rank) / seconds - 1) * 100
        for cost in measured.costs
        for rank, seconds in measured.step_seconds.items()
        if rank not in cost.step_ranks
    ]
    return {"least": min(errors, default=0.0), "most": max(errors, default=0.0)}


def _ranks(
    measured: Measured, profiles: Mapping[str, DeviceProfile], deadline: float | None = None
) -> tuple[dict[str, int | None], float | None]:
    """Return the rank of each class, and the policy's deadline, its own where none is given."""
    policy = DeadlinePolicy(candidates=list(measured.step_seconds), deadline=deadline)
    nodes = dict(enumerate(profiles.values()))
    steps = dict.fromkeys(nodes, measured.local_steps)
    decisions = policy.assign(nodes, local_steps=steps, pace={})
    return {name: decisions[at].rank for at, name in enumerate(profiles)}, policy.deadline


def _profile(measured: Measured, device: Device) -> DeviceProfile:
    """Return the profile that a device of a class would send."""
    low, high = measured.cost.step_seconds
    slowed = (low * device.slowdown, high * device.slowdown)
    told = {key: getattr(device, key) for key in ("memory_bytes", "bandwidth")}
    profile = _profile_of(measured.cost, measured)
    return replace(profile, device=device.name, step_seconds=slowed, **told)


def _profile_of(cost: TrainingCost, measured: Measured) -> DeviceProfile:
    # Ranks do not depend on the embedding.
    known: dict[str, Any] = {"embedding": np.ones(1, np.float32), **vars(cost)}
    known |= {"device": "this", "memory_bytes": 0, "bandwidth": float("inf")}
    return DeviceProfile(num_examples=measured.examples, **known)
