from collections.abc import Callable
from typing import Any

import torch

from flower_strategy.adapters.adapter import initial_adapter
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel, layer_shapes
from flower_strategy.device.loss import collate, response_loss
from flower_strategy.device.preparation import trainable
from flower_strategy.device.step_memory import AliveBytes, SavedBytes
from flower_strategy.settings import TrainingSettings


def counted(base: BaseModel, settings: TrainingSettings, kind: Callable[[set[int]], Any]) -> int:
    adapter = initial_adapter(layer_shapes(base), rank=2, seed=0)
    examples = [Example("a" * 100, "b" * 100)] * settings.batch_size
    with trainable(base, adapter, settings, seed=(0,)) as training:
        model = training.model
        counter = kind({weight.untyped_storage().data_ptr() for weight in model.parameters()})
        with counter:
            batch = collate(examples, base, settings)
            response_loss(model.get_base_model(), batch).backward()
    return int(counter.most)


def test_what_is_alive_is_counted_until_it_is_freed() -> None:
    with AliveBytes(set()) as counter:
        kept = torch.zeros(1000)
        for _ in range(5):
            gone = kept + 1.0
            del gone
        view = kept[:10]
        kept.add_(1.0)
    assert counter.most == 2 * 4000
    assert view.numel() == 10


def test_weights_are_not_counted() -> None:
    weight = torch.zeros(1000)
    with AliveBytes({weight.untyped_storage().data_ptr()}) as counter:
        view = weight.reshape(10, 100).T
    assert counter.most == 0
    assert view.shape == (100, 10)


def test_both_ways_agree_and_checkpointing_needs_less(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    wide = settings.changed(batch_size=8, max_length=200)
    saved = counted(tiny_base, wide, SavedBytes)
    alive = counted(tiny_base, wide, AliveBytes)
    # What is alive also has what the passes make for a moment.
    assert saved < alive < 2 * saved
    anew = counted(tiny_base, wide.changed(gradient_checkpointing=True), AliveBytes)
    assert anew < 0.9 * alive
