"""How many steps a device takes in a round."""

from __future__ import annotations

import math

from flower_strategy.profile import DeviceProfile
from flower_strategy.ranks.cost import StepCost, download_seconds, upload_seconds
from flower_strategy.settings import TrainingSettings

MOST_STEPS = 1_000_000
"""Most steps of a round, as of `local_steps`: a device says itself how fast it is."""


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
    # As policies reckon. A device of a low rank downloads more than that, once it has an adapter of
    # its own; a round is that much longer rather than a whole step shorter.
    left = deadline - upload_seconds(profile, rank) - download_seconds(profile, rank)
    # The slack is for rounding: an automatic deadline is itself a sum of these seconds.
    steps = math.floor(left / (pace * StepCost.fit(profile).at(rank)) * (1 + 1e-9))
    if training.max_epochs:
        size = training.batch_size * training.gradient_accumulation_steps
        whole = training.max_epochs * profile.num_examples / size
        share = min(server_round / max(num_rounds, 1), 1.0)
        steps = min(steps, math.ceil(whole * share - 1e-9) - taken)
    return min(max(steps, 1), MOST_STEPS)
