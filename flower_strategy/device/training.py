"""A device's local work: train an adapter on its examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel, from_peft
from flower_strategy.device.loss import autocast, collate, response_loss
from flower_strategy.device.preparation import check_responses, check_training, trainable
from flower_strategy.schedule import learning_rates
from flower_strategy.settings import TrainingSettings


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


def train_adapter(
    base: BaseModel,
    adapter: AdapterState,
    examples: Sequence[Example],
    settings: TrainingSettings,
    *,
    order_seed: Sequence[int] = (0,),
    server_round: int = 1,
    num_rounds: int = 1,
) -> TrainingOutcome:
    """Train an adapter for one round's steps; the base model stays frozen.

    A step's loss is the mean over all response tokens of its batches. With ``settings.proximal`` =
    mu above 0, training minimises it plus ``mu / 2 * |theta - theta_received|^2`` over all
    factors: FedProx, Li et al., "Federated Optimization in Heterogeneous Networks" (arXiv
    1812.06127), equation 2. The reported loss excludes this term.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    adapter : AdapterState
        The adapter to start from.
    examples : Sequence[Example]
        The device's examples.
    settings : TrainingSettings
        How to train.
    order_seed : Sequence[int]
        Seed of the examples' order and of dropout, such as (run seed, round, node).
    server_round, num_rounds : int
        The round, from 1, and the rounds of the run: the learning rates follow them.

    Raises
    ------
    ConfigError
        There are no examples, a step's examples have no token to learn, or examples could be
        longer than the model has positions. No step is taken then.
    """
    check_training(base, examples, settings)
    check_responses(base, _steps(examples, settings, order_seed), settings)
    steps = settings.steps(len(examples))
    rates = learning_rates(settings, steps=steps, server_round=server_round, num_rounds=num_rounds)
    losses = []
    with trainable(base, adapter, settings, seed=order_seed) as model:
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        received = [weight.detach().clone() for weight in weights] if settings.proximal else []
        optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
        for rate, chosen in zip(rates, _steps(examples, settings, order_seed), strict=True):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            batches = [
                collate(chosen[start : start + settings.batch_size], base, settings)
                for start in range(0, len(chosen), settings.batch_size)
            ]
            tokens = sum(batch.num_targets for batch in batches)
            for batch in batches:
                with autocast(base, settings):
                    loss = response_loss(model.get_base_model(), batch) / tokens
                losses.append(loss.detach())
                if settings.proximal and batch is batches[0]:
                    loss = loss + settings.proximal / 2 * _squared_distance(weights, received)
                loss.backward()
            if settings.max_grad_norm:
                torch.nn.utils.clip_grad_norm_(weights, settings.max_grad_norm)
            optimizer.step()
        from peft import get_peft_model_state_dict

        trained = from_peft(get_peft_model_state_dict(model), scaling=adapter.scaling)
    # Losses are read at the end: a GPU would have to finish the step for each.
    return TrainingOutcome(trained, math.fsum(torch.stack(losses).tolist()) / steps)


def _steps(
    examples: Sequence[Example], settings: TrainingSettings, seed: Sequence[int]
) -> Iterator[list[Example]]:
    """Yield the examples of each of a round's steps: shuffled passes, one after another.

    With ``epochs`` a pass ends with the step in which its last examples are, as transformers'
    Trainer does it; with ``local-steps`` every step is full.
    """
    order = np.random.default_rng(seed)
    size = settings.batch_size * settings.gradient_accumulation_steps
    rows: list[int] = []
    for _ in range(settings.steps(len(examples))):
        while len(rows) < (1 if settings.epochs else size):
            rows += order.permutation(len(examples)).tolist()
        yield [examples[row] for row in rows[:size]]
        rows = rows[size:]


def _squared_distance(
    weights: Sequence[torch.Tensor], others: Sequence[torch.Tensor]
) -> torch.Tensor:
    return torch.stack(
        [(weight - other).square().sum() for weight, other in zip(weights, others, strict=True)]
    ).sum()
