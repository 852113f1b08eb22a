"""The learning rates of a round's steps: transformers' schedules over all rounds of a run."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from transformers import get_scheduler

from flower_strategy.settings import TrainingSettings


def learning_rates(
    settings: TrainingSettings, *, steps: int, server_round: int, num_rounds: int
) -> list[float]:
    """Return the learning rate of every step that a device takes in a round.

    They follow from the round's number alone, so that devices that sit out a round, join late, or
    take part in a run that was resumed have the same as the others. They are those that
    transformers' Trainer gives to ``num_rounds * steps`` steps in one go.

    Parameters
    ----------
    settings : TrainingSettings
        Schedule, highest and lowest rate, share of warm-up.
    steps : int
        Optimizer steps per round.
    server_round : int
        The round, from 1.
    num_rounds : int
        Rounds of the run.
    """
    whole = max(num_rounds, server_round) * steps
    options: dict[str, Any] = {}
    kind = "constant_with_warmup"
    if settings.lr_schedule == "cosine":
        kind, options = "cosine_with_min_lr", {"min_lr": settings.learning_rate_min}
    scheduler = get_scheduler(
        kind,
        torch.optim.SGD([torch.zeros(0)], lr=settings.learning_rate),
        num_warmup_steps=math.ceil(whole * settings.warmup_ratio),
        num_training_steps=whole,
        scheduler_specific_kwargs=options,
    )
    (factor,) = scheduler.lr_lambdas
    first = (max(server_round, 1) - 1) * steps
    return [settings.learning_rate * factor(step) for step in range(first, first + steps)]


def asked_move(
    settings: TrainingSettings, *, num_examples: int, server_round: int, num_rounds: int
) -> float:
    """Return the sum of the learning rates of a round on a device with so many examples."""
    return _total_rate(settings, settings.steps(num_examples), server_round, num_rounds)


@lru_cache(maxsize=4096)
def _total_rate(
    settings: TrainingSettings, steps: int, server_round: int, num_rounds: int
) -> float:
    rates = learning_rates(settings, steps=steps, server_round=server_round, num_rounds=num_rounds)
    return math.fsum(rates)
