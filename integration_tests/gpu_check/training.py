"""Federated training's local steps on the device against the same steps on a CPU."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from flower_strategy.adapters.adapter import initial_adapter
from flower_strategy.config import RunConfig
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel, layer_shapes, load_base_model
from flower_strategy.device.training import TrainingOutcome, train_adapter
from flower_strategy.settings import TrainingSettings
from integration_tests.gpu_check.sizes import Sizes

SMOLLM2 = "embedded:smollm2-135m-instruct"
#: Largest difference of the losses, and of the adapters' products relative to their norm.
MOST_LOSS, MOST_ADAPTER = 1e-2, 5e-2
EXAMPLES = [
    Example(f"Q: What is {first} and {second}?\nA:", f" {first + second}.")
    for first, second in ((1, 2), (3, 4), (5, 6), (7, 8), (2, 9), (4, 4), (6, 1), (8, 5))
]


def check(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Train the same adapter on the same examples on both."""
    model = SMOLLM2
    base = load_base_model(model)
    steps = min(sizes.steps, 3)
    config = RunConfig(model=model, local_steps=steps, batch_size=2, learning_rate=1e-3)
    settings = TrainingSettings.from_config(config)
    outcomes, took = [], []
    for place in (torch.device("cpu"), device):
        outcome, seconds = trained(base, place, settings)
        outcomes.append(outcome)
        took.append(seconds / steps)
    here, there = outcomes
    moved, apart = 0.0, 0.0
    for layer in here.adapter.layers:
        moved += float(np.square(here.adapter.delta(layer)).sum())
        difference = here.adapter.delta(layer) - there.adapter.delta(layer)
        apart += float(np.square(difference).sum())
    return {
        "model": model,
        "steps": steps,
        "losses": [here.loss, there.loss],
        "adapters_apart": (apart / moved) ** 0.5,
        "cpu_step_s": took[0],
        "device_step_s": took[1],
    }


def failures(found: dict[str, Any]) -> list[str]:
    """Return what is not as it must be."""
    said = []
    here, there = found["losses"]
    if not abs(here - there) <= MOST_LOSS:
        said.append(f"losses are {here:.4f} and {there:.4f}")
    if not found["adapters_apart"] <= MOST_ADAPTER:
        said.append(f"adapters differ by {found['adapters_apart']:.3f} of what they change")
    return said


def trained(
    base: BaseModel, device: torch.device, settings: TrainingSettings
) -> tuple[TrainingOutcome, float]:
    """Train on a device; return the outcome and the seconds."""
    place = replace(base, model=base.model.to(device), device=device)
    adapter = initial_adapter(layer_shapes(place), rank=4, seed=0)
    begun = time.perf_counter()
    outcome = train_adapter(place, adapter, EXAMPLES, settings)
    return outcome, time.perf_counter() - begun
