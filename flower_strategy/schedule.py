"""The learning rates of a round's steps: those of transformers over all rounds of a run."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

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
    rates: list[float] = _rates(settings, steps, server_round, num_rounds).tolist()
    return rates


def _rates(
    settings: TrainingSettings, steps: int, server_round: int, num_rounds: int
) -> NDArray[np.float64]:
    # transformers' formulas; its schedulers need torch, which the server's process does without.
    whole = max(num_rounds, server_round) * steps
    warmup = math.ceil(whole * settings.warmup_ratio)
    step = (max(server_round, 1) - 1) * steps + np.arange(steps, dtype=np.float64)
    high, low = settings.learning_rate, settings.learning_rate_min
    rates = np.full(steps, high)
    if settings.lr_schedule == "cosine":
        rates = low + (high - low) * 0.5 * (
            1.0 + np.cos(np.pi * (step - warmup) / max(1, whole - warmup))
        )
    return np.where(step < warmup, high * step / max(1, warmup), rates)


def asked_move(
    settings: TrainingSettings, *, num_examples: int, server_round: int, num_rounds: int
) -> float:
    """Return the sum of the learning rates of a round on a device with so many examples."""
    return _total_rate(settings, settings.steps(num_examples), server_round, num_rounds)


@lru_cache(maxsize=4096)
def _total_rate(
    settings: TrainingSettings, steps: int, server_round: int, num_rounds: int
) -> float:
    return float(_rates(settings, steps, server_round, num_rounds).sum())
