"""Rounds of device classes: what was measured, what the rank policy predicts, what it decides."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flower_strategy.device.hardware import Device
from flower_strategy.device.training_cost import TrainingCost
from flower_strategy.profile import DeviceProfile
from flower_strategy.ranks.cost import StepCost, predicted_seconds
from flower_strategy.ranks.policies import DeadlinePolicy

_DEADLINES = 25


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What this machine needs.

    Attributes
    ----------
    step_seconds : Mapping[int, float]
        Rank, ascending -> seconds of an optimizer step in training, at slowdown 1.
    upload_bytes : Mapping[int, int]
        Rank -> bytes of an adapter's arrays in a message.
    costs : tuple[TrainingCost, ...]
        What the device measured of itself, at the smallest and the largest rank, each time.
    examples : int
        Training examples on a device.
    """

    step_seconds: Mapping[int, float]
    upload_bytes: Mapping[int, int]
    costs: tuple[TrainingCost, ...]
    examples: int

    @property
    def cost(self) -> TrainingCost:
        """The cost with the medians of the seconds."""
        low, high = (
            statistics.median(cost.step_seconds[at] for cost in self.costs) for at in (0, 1)
        )
        return replace(self.costs[0], step_seconds=(low, high))


def compare(
    measured: Measured, classes: Mapping[str, Device], *, local_steps: int
) -> dict[str, Any]:
    """Return the rounds of every class, the policy's ranks over deadlines, and equal ranks.

    Parameters
    ----------
    measured : Measured
        Seconds and bytes.
    classes : Mapping[str, Device]
        Name -> device.
    local_steps : int
        Optimizer steps of a round.
    """
    profiles = {name: _profile(measured, device) for name, device in classes.items()}
    found: dict[str, dict[str, Any]] = {
        name: {
            "slowdown": device.slowdown,
            "bandwidth": device.bandwidth,
            "rounds": [
                _round(measured, device, profiles[name], rank, local_steps=local_steps)
                for rank in measured.step_seconds
            ],
        }
        for name, device in classes.items()
    }
    seconds = {
        (name, each["rank"]): each["round_s"] for name in found for each in found[name]["rounds"]
    }
    return {
        "classes": found,
        "single_probe_error_percent": _single_probes(measured),
        "deadlines": [
            {
                "deadline_s": float(deadline),
                "ranks": _ranks(measured, profiles, float(deadline), local_steps=local_steps),
            }
            for deadline in np.geomspace(
                0.9 * min(seconds.values()), 1.1 * max(seconds.values()), _DEADLINES
            )
        ],
        "homogeneous": _homogeneous(measured, profiles, seconds, local_steps=local_steps),
    }


def _round(
    measured: Measured, device: Device, profile: DeviceProfile, rank: int, *, local_steps: int
) -> dict[str, Any]:
    training = local_steps * measured.step_seconds[rank] * device.slowdown
    upload = device.upload_seconds(measured.upload_bytes[rank])
    predicted = predicted_seconds(profile, rank, local_steps=local_steps)
    return {
        "rank": rank,
        "training_s": training,
        "upload_s": upload,
        "round_s": training + upload,
        "predicted_s": predicted,
        "error_percent": (predicted / (training + upload) - 1) * 100,
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


def _homogeneous(
    measured: Measured,
    profiles: Mapping[str, DeviceProfile],
    seconds: Mapping[tuple[str, int], float],
    *,
    local_steps: int,
) -> dict[str, Any]:
    """Compare the policy's ranks at its own deadline with the largest rank for everybody."""
    policy = DeadlinePolicy(candidates=list(measured.step_seconds))
    nodes = dict(enumerate(profiles.values()))
    decisions = policy.assign(nodes, local_steps=local_steps, pace={})
    ranks = {profiles_name: decisions[at].rank for at, profiles_name in enumerate(profiles)}
    own = max(seconds[name, rank] for name, rank in ranks.items() if rank is not None)
    largest = max(measured.step_seconds)
    slowest = max(profiles, key=lambda name: seconds[name, largest])
    same = seconds[slowest, largest]
    return {
        "deadline_s": policy.deadline,
        "ranks": ranks,
        "round_s": own,
        "homogeneous_s": same,
        "slowest": slowest,
        "ratio": same / own,
    }


def _ranks(
    measured: Measured,
    profiles: Mapping[str, DeviceProfile],
    deadline: float,
    *,
    local_steps: int,
) -> dict[str, int | None]:
    policy = DeadlinePolicy(candidates=list(measured.step_seconds), deadline=deadline)
    decisions = policy.assign(dict(enumerate(profiles.values())), local_steps=local_steps, pace={})
    return {name: decisions[at].rank for at, name in enumerate(profiles)}


def _profile(measured: Measured, device: Device) -> DeviceProfile:
    """Return what a device of a class would tell the server."""
    cost = measured.cost
    low, high = cost.step_seconds
    slowed = replace(cost, step_seconds=(low * device.slowdown, high * device.slowdown))
    return replace(
        _profile_of(slowed, measured),
        device=device.name,
        memory_bytes=device.memory_bytes,
        bandwidth=device.bandwidth,
    )


def _profile_of(cost: TrainingCost, measured: Measured) -> DeviceProfile:
    return DeviceProfile(
        device="this",
        memory_bytes=0,
        bandwidth=float("inf"),
        num_examples=measured.examples,
        # Ranks do not depend on it.
        embedding=np.ones(1, np.float32),
        **vars(cost),
    )
