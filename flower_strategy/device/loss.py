"""The loss on a device's examples: batches of token ids, and the loss of their responses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from floe_plugins.errors import ConfigError
from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.adapters.stacking import is_zero
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel, adapted
from flower_strategy.device.encoding import encoder_of
from flower_strategy.settings import TrainingSettings

_IGNORED = -100


@dataclass(frozen=True, eq=False)
class Batch:
    """Encoded examples, padded on the right.

    Attributes
    ----------
    ids : torch.Tensor
        Token ids, shape (rows, tokens).
    mask : torch.Tensor
        1 at tokens, 0 at padding; same shape.
    targets : torch.Tensor
        The next token within responses, -100 elsewhere; shape (rows, tokens - 1).
    num_targets : int
        Number of response tokens, which is known here without waiting for the device.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    targets: torch.Tensor
    num_targets: int


def collate(examples: Sequence[Example], base: BaseModel, settings: TrainingSettings) -> Batch:
    """Encode examples into one batch on the base model's device."""
    encoder = encoder_of(base.tokenizer, template=settings.template, max_length=settings.max_length)
    encoded = [encoder.encode(example) for example in examples]
    width = max(2, *(len(each.ids) for each in encoded))
    ids = torch.full((len(encoded), width), base.tokenizer.pad_token_id or 0)
    mask = torch.zeros_like(ids)
    targets = torch.full((len(encoded), width - 1), _IGNORED)
    for row, each in enumerate(encoded):
        tokens = torch.tensor(each.ids)
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        learned = torch.tensor(each.learned[1:])
        targets[row, : len(tokens) - 1][learned] = tokens[1:][learned]
    count = int((targets != _IGNORED).sum())
    return Batch(ids.to(base.device), mask.to(base.device), targets.to(base.device), count)


def autocast(base: BaseModel, settings: TrainingSettings) -> torch.autocast:
    """Return the context of a forward pass, which computes in bfloat16 with ``bf16``."""
    return torch.autocast(base.device.type, torch.bfloat16, enabled=settings.bf16)


def response_loss(model: Any, batch: Batch, *, reduction: str = "sum") -> torch.Tensor:
    """Return the summed negative log likelihood of the response tokens; with ``none``, of each.

    The logits are those of the model's own forward pass, with what it does to them: scales them,
    caps them. They are formed at these positions only: with 49,152 tokens in the vocabulary, all
    would cost a quarter of the step.
    """
    wanted = batch.targets != _IGNORED

    def keep_wanted(_: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        (hidden,) = inputs
        return (hidden[:, :-1][wanted].unsqueeze(0),)

    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(keep_wanted)
    try:
        logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits[0]
    finally:
        hook.remove()
    return functional.cross_entropy(logits.float(), batch.targets[wanted], reduction=reduction)


def held_out_loss(
    base: BaseModel,
    adapter: AdapterState,
    examples: Sequence[Example],
    settings: TrainingSettings,
) -> tuple[float, int]:
    """Return the mean loss per response token on examples, and the number of these tokens.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    adapter : AdapterState
        The adapter to measure.
    examples : Sequence[Example]
        Held-out examples, of which the first ``settings.eval_examples`` are used.
    settings : TrainingSettings
        Batch size and length, and how many examples.

    Raises
    ------
    ConfigError
        There are no examples.
    """
    check_held_out(examples)
    measured = example_losses(base, adapter, examples, settings)
    return measured.mean, measured.num_tokens


def check_held_out(examples: Sequence[Example]) -> None:
    """Check that a device holds out examples to measure the loss on.

    Raises
    ------
    ConfigError
        It has none.
    """
    if not examples:
        raise ConfigError(
            "This device holds out 0 examples, and 1 is needed to measure the loss on: give it "
            "more data, or set fraction-evaluate=0."
        )


@dataclass(frozen=True, eq=False)
class ExampleLosses:
    """The loss on each of some examples.

    Attributes
    ----------
    sums : NDArray[np.float64]
        Summed loss of each example's response tokens, nats.
    tokens : NDArray[np.int64]
        How many these are.
    """

    sums: NDArray[np.float64]
    tokens: NDArray[np.int64]

    @property
    def num_tokens(self) -> int:
        """Response tokens of all examples."""
        return int(self.tokens.sum())

    @property
    def mean(self) -> float:
        """Mean loss per response token."""
        return float(self.sums.sum()) / max(self.num_tokens, 1)

    def better_by(self, other: ExampleLosses) -> tuple[float, float]:
        """Return how much lower the losses of the same examples are than others, and its error.

        Returns
        -------
        tuple[float, float]
            Mean over the examples of the difference per response token, and its standard error,
            infinite for fewer than two examples.
        """
        counts = self.tokens > 0
        gains = (other.sums[counts] - self.sums[counts]) / self.tokens[counts]
        if len(gains) < 2:
            return (float(gains.sum()), math.inf)
        return float(gains.mean()), float(gains.std(ddof=1)) / math.sqrt(len(gains))


def example_losses(
    base: BaseModel,
    adapter: AdapterState,
    examples: Sequence[Example],
    settings: TrainingSettings,
) -> ExampleLosses:
    """Return the loss on each of the first ``settings.eval_examples`` examples, or on all with 0.

    Parameters are those of `held_out_loss`.
    """
    (losses,) = losses_of_parts(base, adapter, [examples], settings)
    return losses


def losses_of_parts(
    base: BaseModel,
    adapter: AdapterState,
    parts: Sequence[Sequence[Example]],
    settings: TrainingSettings,
) -> list[ExampleLosses]:
    """Return `example_losses` of several parts of the data; the adapter is put on once.

    That takes as long as a few examples do. An untrained adapter is not put on at all.
    """
    changes = not is_zero(adapter)
    with adapted(base, adapter) if changes else nullcontext() as model, torch.no_grad():
        measured = model.get_base_model() if model is not None else base.model
        return [_losses(measured, base, part, settings) for part in parts]


def _losses(
    model: Any, base: BaseModel, examples: Sequence[Example], settings: TrainingSettings
) -> ExampleLosses:
    if settings.eval_examples:
        examples = examples[: settings.eval_examples]
    sums = np.zeros(len(examples))
    tokens = np.zeros(len(examples), np.int64)
    for start in range(0, len(examples), settings.batch_size):
        batch = collate(examples[start : start + settings.batch_size], base, settings)
        with autocast(base, settings):
            losses = response_loss(model, batch, reduction="none")
        rows = start + (batch.targets != _IGNORED).nonzero()[:, 0].cpu().numpy()
        np.add.at(sums, rows, losses.double().cpu().numpy())
        np.add.at(tokens, rows, 1)
    return ExampleLosses(sums, tokens)
