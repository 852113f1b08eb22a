"""What a device checks and sets up before it takes a training step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from floe_plugins.errors import ConfigError
from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel, adapted
from flower_strategy.device.encoding import encoder_of
from flower_strategy.device.model_checks import check_length
from flower_strategy.device.own_factors import beside, own_factors
from flower_strategy.settings import TrainingSettings

if TYPE_CHECKING:
    from peft import PeftModel


def check_training(
    base: BaseModel, examples: Sequence[Example], settings: TrainingSettings
) -> None:
    """Check that a device can train with these settings.

    Raises
    ------
    ConfigError
        It has no examples, they could be longer than the model has positions, or the model has no
        gradient checkpointing and the settings ask for it.
    """
    if not examples:
        raise ConfigError("This device has 0 examples to train on; 1 is needed at least.")
    check_length(settings.model, base.model.config, max_length=settings.max_length)
    if settings.gradient_checkpointing and not base.model.supports_gradient_checkpointing:
        raise ConfigError(
            f"gradient-checkpointing=true is not accepted: {type(base.model).__name__} does not "
            "support it; false is accepted."
        )


def check_responses(
    base: BaseModel, steps: Iterable[Sequence[Example]], settings: TrainingSettings
) -> None:
    """Check that every step has a token to learn. It looks no further than a step's first one.

    Raises
    ------
    ConfigError
        A step has none.
    """
    encoder = encoder_of(base.tokenizer, template=settings.template, max_length=settings.max_length)
    for number, examples in enumerate(steps, 1):
        if not any(any(encoder.encode(example).learned[1:]) for example in examples):
            raise ConfigError(
                f"Step {number} of this device has nothing to learn: none of its {len(examples)} "
                "examples has a response token within max-length="
                f"{settings.max_length}; give every example a response."
            )


@dataclass(frozen=True, eq=False)
class Trainable:
    """A model in training, and what of it is trained.

    Attributes
    ----------
    model : PeftModel
        The model; `response_loss` takes its base model, into which PEFT has put the adapter.
    weights : dict[str, torch.nn.Parameter]
        Name of a factor, as in an adapter's file -> the weight that an optimizer changes; see
        `own_factors`.
    """

    model: PeftModel
    weights: dict[str, torch.nn.Parameter]


@contextmanager
def trainable(
    base: BaseModel,
    adapter: AdapterState,
    settings: TrainingSettings,
    *,
    seed: Sequence[int],
    fixed: AdapterState | None = None,
) -> Iterator[Trainable]:
    """Put an adapter on the base model, and set both to training for the length of the block.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    adapter : AdapterState
        The adapter to train.
    settings : TrainingSettings
        Dropout, of the inputs of both adapters, and gradient checkpointing.
    seed : Sequence[int]
        What dropout is drawn from. The process's own generators stay as they are.
    fixed : AdapterState, optional
        Another adapter, which is not trained; of any rank and scaling.
    """
    accelerators = [] if base.device.type == "cpu" else [base.device]
    with (
        # PEFT draws factors before those that came replace them.
        torch.random.fork_rng(accelerators, device_type=base.device.type),
        adapted(base, beside(adapter, fixed), dropout=settings.lora_dropout) as model,
        torch.enable_grad(),
    ):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
        try:
            model.train()
            if settings.gradient_checkpointing:
                base.model.gradient_checkpointing_enable({"use_reentrant": False})
            yield Trainable(model, own_factors(model, rank=adapter.rank))
        finally:
            if settings.gradient_checkpointing:
                base.model.gradient_checkpointing_disable()
            model.eval()
