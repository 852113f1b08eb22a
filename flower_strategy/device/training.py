"""A device's local work: train an adapter on its examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel, from_peft, to_peft
from flower_strategy.device.data_order import Place, steps_from
from flower_strategy.device.loss import autocast, collate, response_loss
from flower_strategy.device.preparation import check_responses, check_training, trainable
from flower_strategy.schedule import learning_rates
from flower_strategy.settings import TrainingSettings


@dataclass(frozen=True, eq=False)
class Moments:
    """AdamW's two moments of an adapter's factors.

    Attributes
    ----------
    first, second : AdapterState
        Moments of every entry, in the adapter's own form.
    steps : int
        Steps that they average over, by which AdamW corrects its bias.
    """

    first: AdapterState
    second: AdapterState
    steps: int


@dataclass(frozen=True, eq=False)
class Progress:
    """What training goes on from.

    Attributes
    ----------
    place : Place
        In the order of the examples.
    moments : Moments or None
        None before the first step.
    """

    place: Place = field(default_factory=Place)
    moments: Moments | None = None


@dataclass(frozen=True, eq=False)
class TrainingOutcome:
    """The result of a device's local steps.

    Attributes
    ----------
    adapter : AdapterState
        The trained adapter, with the rank and scaling of the initial one.
    loss : float
        Mean loss over the steps, nats per response token.
    steps : int
        Steps taken.
    progress : Progress
        What the next round goes on from.
    """

    adapter: AdapterState
    loss: float
    steps: int
    progress: Progress


def train_adapter(
    base: BaseModel,
    adapter: AdapterState,
    examples: Sequence[Example],
    settings: TrainingSettings,
    *,
    fixed: AdapterState | None = None,
    progress: Progress | None = None,
    order_seed: Sequence[int] = (0,),
    server_round: int = 1,
    num_rounds: int = 1,
    enough: Callable[[int], bool] = lambda steps: False,
) -> TrainingOutcome:
    """Train an adapter for one round's steps; the base model stays frozen.

    A step's loss is the mean over all response tokens of its batches.

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
    fixed : AdapterState, optional
        Another adapter that takes part in the forward pass and does not change.
    progress : Progress, optional
        Where an earlier round stopped with this adapter; by default training begins.
    order_seed : Sequence[int]
        Seed of the examples' order, such as (run seed, node). Dropout is seeded by it and the
        round.
    server_round, num_rounds : int
        The round, from 1, and the rounds of the run: the learning rates follow them.
    enough : Callable[[int], bool], optional
        Called after every step with the number of steps taken; true ends the round early.

    Raises
    ------
    ConfigError
        There are no examples, a step's examples have no token to learn, or examples could be
        longer than the model has positions. No step is taken then.
    """
    progress = progress or Progress()
    check_training(base, examples, settings)
    steps = settings.steps(len(examples))
    batches_of = [
        *steps_from(progress.place, examples, settings, order_seed, steps=steps),
    ]
    check_responses(base, (chosen for chosen, _ in batches_of), settings)
    rates = learning_rates(settings, steps=steps, server_round=server_round, num_rounds=num_rounds)
    losses: list[torch.Tensor] = []
    taken, place = 0, progress.place
    seed = (*order_seed, server_round)
    with trainable(base, adapter, settings, seed=seed, fixed=fixed) as training:
        model, weights = training.model.get_base_model(), training.weights
        optimizer = torch.optim.AdamW(weights.values(), lr=settings.learning_rate, weight_decay=0.0)
        if progress.moments is not None:
            _set_moments(weights, optimizer, progress.moments)
        for rate, (chosen, after) in zip(rates, batches_of, strict=True):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            batches = [
                collate(chosen[start : start + settings.batch_size], base, settings)
                for start in range(0, len(chosen), settings.batch_size)
            ]
            tokens = sum(batch.num_targets for batch in batches)
            for batch in batches:
                with autocast(base, settings):
                    loss = response_loss(model, batch) / tokens
                losses.append(loss.detach())
                loss.backward()
            if settings.max_grad_norm:
                torch.nn.utils.clip_grad_norm_(weights.values(), settings.max_grad_norm)
            optimizer.step()
            taken, place = taken + 1, after
            if taken < steps and enough(taken):
                break
        trained = from_peft(weights, scaling=adapter.scaling)
        moments = _moments(weights, optimizer)
    # Losses are read at the end: a GPU would have to finish the step for each.
    mean = math.fsum(torch.stack(losses).tolist()) / taken
    return TrainingOutcome(trained, mean, taken, Progress(place, moments))


def _set_moments(
    weights: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.AdamW, moments: Moments
) -> None:
    first, second = to_peft(moments.first), to_peft(moments.second)
    for name, weight in weights.items():
        optimizer.state[weight] = {
            "step": torch.tensor(float(moments.steps)),
            "exp_avg": first[name].to(weight),
            "exp_avg_sq": second[name].to(weight),
        }


def _moments(weights: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.AdamW) -> Moments:
    states = {name: optimizer.state[weight] for name, weight in weights.items()}
    first, second = (
        from_peft(
            # A module that the text does not pass through has no gradient, and no moments.
            {name: states[name].get(key, torch.zeros_like(weights[name])) for name in weights},
            scaling=1.0,
        )
        for key in ("exp_avg", "exp_avg_sq")
    )
    steps = max((int(state["step"]) for state in states.values() if state), default=0)
    return Moments(first, second, steps)
