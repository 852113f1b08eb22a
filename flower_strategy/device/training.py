"""A device's local work: encode examples, train an adapter, measure the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel, adapted, from_peft
from flower_strategy.device.encoding import encoder_of
from flower_strategy.settings import TrainingSettings

_IGNORED = -100


@dataclass(frozen=True, eq=False)
class TrainingOutcome:
    """The result of a device's local steps.

    Attributes
    ----------
    adapter : AdapterState
        The trained adapter, with the rank and scaling of the initial one.
    loss : float
        Mean loss over the steps, nats per response token.
    """

    adapter: AdapterState
    loss: float


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
    """

    ids: torch.Tensor
    mask: torch.Tensor
    targets: torch.Tensor


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
    return Batch(ids.to(base.device), mask.to(base.device), targets.to(base.device))


def response_loss(model: Any, batch: Batch) -> tuple[torch.Tensor, int]:
    """Return the summed negative log likelihood of the response tokens, and their number.

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
    loss = functional.cross_entropy(logits.float(), batch.targets[wanted], reduction="sum")
    return loss, int(wanted.sum())


def train_adapter(
    base: BaseModel,
    adapter: AdapterState,
    examples: Sequence[Example],
    settings: TrainingSettings,
    *,
    order_seed: Sequence[int] = (0,),
) -> TrainingOutcome:
    """Train an adapter for the settings' local steps; the base model stays frozen.

    With ``settings.proximal`` = mu above 0, training minimises the loss plus
    ``mu / 2 * |theta - theta_received|^2`` over all factors: FedProx, Li et al., "Federated
    Optimization in Heterogeneous Networks" (arXiv 1812.06127), equation 2. The reported loss
    excludes this term.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    adapter : AdapterState
        The adapter to start from.
    examples : Sequence[Example]
        The device's examples.
    settings : TrainingSettings
        Steps, batch size, learning rate, length, proximal term.
    order_seed : Sequence[int]
        Seed of the batches' order, such as (run seed, round, node).
    """
    order = np.random.default_rng(order_seed)
    rows: list[int] = []
    losses = []
    with adapted(base, adapter) as model, torch.enable_grad():
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        received = [weight.detach().clone() for weight in weights] if settings.proximal else []
        optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
        for _ in range(settings.local_steps):
            while len(rows) < settings.batch_size:
                rows += order.permutation(len(examples)).tolist()
            chosen, rows = rows[: settings.batch_size], rows[settings.batch_size :]
            batch = collate([examples[row] for row in chosen], base, settings)
            total, tokens = response_loss(model.get_base_model(), batch)
            loss = total / max(tokens, 1)
            objective = loss
            if settings.proximal:
                objective = loss + settings.proximal / 2 * _squared_distance(weights, received)
            optimizer.zero_grad(set_to_none=True)
            objective.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
        from peft import get_peft_model_state_dict

        trained = from_peft(get_peft_model_state_dict(model), scaling=adapter.scaling)
    return TrainingOutcome(trained, math.fsum(losses) / len(losses))


def _squared_distance(
    weights: Sequence[torch.Tensor], others: Sequence[torch.Tensor]
) -> torch.Tensor:
    return torch.stack(
        [(weight - other).square().sum() for weight, other in zip(weights, others, strict=True)]
    ).sum()


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
    """
    if settings.eval_examples:
        examples = examples[: settings.eval_examples]
    total, tokens = 0.0, 0
    with adapted(base, adapter) as model, torch.no_grad():
        for start in range(0, len(examples), settings.batch_size):
            batch = collate(examples[start : start + settings.batch_size], base, settings)
            loss, count = response_loss(model.get_base_model(), batch)
            total += float(loss)
            tokens += count
    return total / max(tokens, 1), tokens
