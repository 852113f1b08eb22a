"""What training costs on this device: seconds per step at two ranks, and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from flower_strategy.adapters.adapter import AdapterState, initial_adapter
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel, adapted, layer_shapes
from flower_strategy.device.hardware import Device, Stopwatch
from flower_strategy.device.memory import available_memory
from flower_strategy.device.training import TrainingSettings, collate, response_loss

_FLOAT_BYTES = 4

COPIES_PER_FACTOR = 4
"""What training holds of a factor: itself, its gradient, AdamW's two moments."""


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """Measured cost of training on one device.

    Attributes
    ----------
    step_ranks : tuple[int, int]
        The two ranks that were timed.
    step_seconds : tuple[float, float]
        Seconds per step at these ranks, on the device's clock.
    fixed_bytes : int
        Base weights, and what a step keeps for its backward pass.
    bytes_per_rank : int
        Memory that one rank adds.
    upload_per_rank : int
        Bytes of one rank's factors.
    """

    step_ranks: tuple[int, int]
    step_seconds: tuple[float, float]
    fixed_bytes: int
    bytes_per_rank: int
    upload_per_rank: int


def training_memory(base: BaseModel) -> int:
    """Return the bytes that training may take where the base model computes.

    The model is loaded when this is asked, and its weights are part of what training takes
    (`TrainingCost.fixed_bytes`): they count as free. So the answer does not depend on whether the
    process had the model already.
    """
    if base.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(base.device)
    else:
        free = available_memory()
    return free + base.weight_bytes


def measure_training(
    base: BaseModel,
    examples: Sequence[Example],
    settings: TrainingSettings,
    device: Device,
    *,
    ranks: tuple[int, int],
) -> TrainingCost:
    """Time one real training step at each of two ranks, after one to warm up.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    examples : Sequence[Example]
        The device's examples; their texts are joined into one batch of full length, so that the
        budget holds for any of them.
    settings : TrainingSettings
        Batch size and length.
    device : Device
        Whose clock is read.
    ranks : tuple[int, int]
        The two ranks.
    """
    text = "\n".join(example.text for example in examples)
    characters = 16 * settings.max_length
    text = (text * (characters // max(len(text), 1) + 1))[:characters]
    batch = [Example(text[: characters // 2], text[characters // 2 :])] * settings.batch_size
    shapes = layer_shapes(base.model)
    steps = [
        _step(base, initial_adapter(shapes, rank=rank, seed=0), batch, settings, device)
        for rank in (ranks[0], *ranks)
    ]
    return TrainingCost(
        step_ranks=ranks,
        step_seconds=(steps[1].seconds, steps[2].seconds),
        fixed_bytes=base.weight_bytes + steps[0].saved_bytes,
        bytes_per_rank=upload_per_rank(shapes) * COPIES_PER_FACTOR,
        upload_per_rank=upload_per_rank(shapes),
    )


def upload_per_rank(shapes: Mapping[str, tuple[int, int]]) -> int:
    """Return the bytes of an adapter's factors per unit of its rank, for layers of these shapes."""
    return _FLOAT_BYTES * sum(out + inner for out, inner in shapes.values())


@dataclass(frozen=True)
class _Step:
    seconds: float
    saved_bytes: int


def _step(
    base: BaseModel,
    adapter: AdapterState,
    examples: Sequence[Example],
    settings: TrainingSettings,
    device: Device,
) -> _Step:
    """Run one step; count its seconds and the bytes that it keeps for its backward pass."""
    with adapted(base, adapter) as model, torch.enable_grad():
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=0.0)
        own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        saved: dict[int, int] = {}

        def record(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        watch = Stopwatch(device, threads=torch.get_num_threads())
        with torch.autograd.graph.saved_tensors_hooks(record, _same):
            batch = collate(examples, base, settings.max_length)
            loss, tokens = response_loss(model.get_base_model(), batch)
            (loss / max(tokens, 1)).backward()
        optimizer.step()
        if base.device.type == "cuda":
            torch.cuda.synchronize()
        return _Step(watch.seconds(), sum(saved.values()))


def _same(tensor: Any) -> Any:
    return tensor
