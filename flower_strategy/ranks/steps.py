"""How many steps a device takes in a round, and how much it learns in them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flower_strategy.profile import DeviceProfile
from flower_strategy.ranks.cost import StepCost, download_seconds, upload_seconds
from flower_strategy.settings import TrainingSettings

MOST_STEPS = 1_000_000
"""Most steps of a round, as of `local_steps`: a device says itself how fast it is."""


def learning(rank: int, steps: int) -> float:
    r"""Return how much steps at a rank learn, to compare it: :math:`\text{steps} \cdot r^{1/3}`.

    Fitted to what the held-out loss of SmolLM2-135M fell by after 3, 6, 12 and 24 steps at the
    ranks 2, 4, 8, 16 and 32 (GSM8K and PubMedQA mixed, two seeds, learning rate 2e-3, alpha =
    rank): it goes with steps^0.52 and rank^0.17, so a doubled rank is worth 1.25 times the steps,
    whatever the number. From rank 4 or from 6 steps on it is worth less (exponents 0.26 and
    0.13 instead of 0.32), for the ranks up to 16 more (0.38).
    """
    return float(steps * np.cbrt(rank))


def training_time(profile: DeviceProfile, rank: int, *, deadline: float) -> float:
    """Return the seconds that download and upload leave of a round; below 0 they need more."""
    return deadline - upload_seconds(profile, rank) - download_seconds(profile, rank)


def steps_within(profile: DeviceProfile, rank: int, *, deadline: float, pace: float = 1.0) -> int:
    """Return the steps that fit between download and upload; 0 or less where none does.

    Parameters
    ----------
    profile : DeviceProfile
        The device's profile.
    rank : int
        Its rank.
    deadline : float
        Seconds of the round.
    pace : float (default: 1.0)
        How many times longer than profiled its training takes.
    """
    left = training_time(profile, rank, deadline=deadline)
    # The slack is for rounding: an automatic deadline is itself a sum of these seconds.
    steps = left / (pace * StepCost.fit(profile).at(rank)) * (1 + 1e-9)
    return math.floor(min(steps, MOST_STEPS))


@dataclass(frozen=True, kw_only=True)
class FilledRounds:
    """How devices fill rounds with steps, as far as ranks depend on it.

    Attributes
    ----------
    most_epochs : float (default: 0.0)
        Most passes over a device's examples in the run; 0 sets no limit.
    batch_size : int (default: 1)
        Examples of a step.
    rounds : int (default: 1)
        Rounds of the run.
    """

    most_epochs: float = 0.0
    batch_size: int = 1
    rounds: int = 1

    def steps(
        self, profile: DeviceProfile, rank: int, *, deadline: float, pace: float = 1.0
    ) -> int:
        """Return the steps of a round at a rank, at least 1; see `steps_within`."""
        steps = steps_within(profile, rank, deadline=deadline, pace=pace)
        if self.most_epochs:
            epochs = self.most_epochs / self.rounds
            steps = min(steps, steps_of(epochs, profile, batch_size=self.batch_size))
        return max(steps, 1)


def steps_of(epochs: float, profile: DeviceProfile, *, batch_size: int) -> int:
    """Return the steps of so many passes over a device's examples, rounded up."""
    # The slack is for the rounding of a share of the passes.
    return math.ceil(epochs * profile.num_examples / batch_size - 1e-9)


def planned_steps(
    profile: DeviceProfile,
    rank: int,
    training: TrainingSettings,
    *,
    deadline: float | None = None,
    pace: float = 1.0,
    taken: int = 0,
    server_round: int = 1,
    num_rounds: int = 1,
) -> int:
    """Return the steps of one device in one round, at least 1.

    With a deadline they are as many as fit between download and upload, and no more than a share of
    ``max-epochs`` that grows with the rounds: its steps of the whole run are spread over all of
    them. ``epochs``, and a round without a deadline, leave the number to the settings.

    Parameters
    ----------
    profile : DeviceProfile
        The device's profile.
    rank : int
        Its rank.
    training : TrainingSettings
        The run's settings.
    deadline : float, optional
        Seconds of the round.
    pace : float (default: 1.0)
        How many times longer than profiled its training takes.
    taken : int (default: 0)
        Steps that the device has taken in earlier rounds.
    server_round, num_rounds : int (default: 1)
        The round, from 1, and the rounds of the run.
    """
    if training.epochs or not training.fill_deadline or deadline is None:
        return training.steps(profile.num_examples)
    steps = steps_within(profile, rank, deadline=deadline, pace=pace)
    if training.max_epochs:
        size = training.batch_size * training.gradient_accumulation_steps
        epochs = training.max_epochs * min(server_round / max(num_rounds, 1), 1.0)
        steps = min(steps, steps_of(epochs, profile, batch_size=size) - taken)
    return min(max(steps, 1), MOST_STEPS)
