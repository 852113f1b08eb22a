"""Which rank a device gets: a policy over measured profiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flower_strategy.profiles import DeviceProfile


@dataclass(frozen=True)
class StepCost:
    """Seconds of one optimizer step as a line in the rank, ``base + slope * rank``."""

    base: float
    slope: float

    @classmethod
    def fit(cls, profile: DeviceProfile) -> StepCost:
        """Fit the line to the two ranks that the device timed.

        A higher rank never takes less time; where noise says so, the slope is 0 and the base the
        mean.
        """
        (low, high), (quick, slow) = profile.step_ranks, profile.step_seconds
        if high <= low or slow <= quick:
            return cls((quick + slow) / 2, 0.0)
        slope = (slow - quick) / (high - low)
        base = quick - slope * low
        if base < 0:
            return cls(0.0, slow / high)
        return cls(base, slope)

    def at(self, rank: int) -> float:
        """Seconds of a step at `rank`."""
        return self.base + self.slope * rank


@dataclass(frozen=True)
class RankDecision:
    """What a policy decided for one device.

    Attributes
    ----------
    rank : int or None
        The rank, None where the device is left out.
    predicted_seconds : float
        Predicted seconds of a round at that rank, or at the smallest rank where left out.
    reason : str
        Why this rank and no higher one, or why the device is left out.
    """

    rank: int | None
    predicted_seconds: float
    reason: str


class RankPolicy(Protocol):
    """Gives every device its rank, or leaves it out.

    Attributes
    ----------
    name : str
        How reports call it.
    candidates : tuple[int, ...]
        The ranks that it chooses from, ascending. Devices time the first and the last.
    """

    name: str
    candidates: tuple[int, ...]

    def assign(
        self, profiles: Mapping[int, DeviceProfile], *, local_steps: int
    ) -> dict[int, RankDecision]:
        """Return one decision per profile.

        Parameters
        ----------
        profiles : Mapping[int, DeviceProfile]
            Node id -> what the node measured.
        local_steps : int
            Optimizer steps of a round.
        """


class DeadlinePolicy:
    """The largest rank whose round fits the deadline and whose memory fits the device.

    A round at rank r takes ``steps * (a + b r) + bytes(r) / bandwidth`` seconds, with a and b
    fitted to the device's two measured ranks and bytes(r) what it uploads.

    Parameters
    ----------
    candidates : Sequence[int]
        The ranks to choose from.
    deadline : float, optional
        Seconds that a round may take. None takes, from the first profiles, what the slowest
        device that can hold the smallest rank needs for it: nobody who could take part is left
        out, and the others use the time that they would wait anyway.
    """

    name = "deadline"

    def __init__(self, *, candidates: Sequence[int], deadline: float | None = None) -> None:
        self.candidates = tuple(sorted(candidates))
        self.deadline = deadline

    def assign(
        self, profiles: Mapping[int, DeviceProfile], *, local_steps: int
    ) -> dict[int, RankDecision]:
        """Return one decision per profile; see `RankPolicy.assign`."""
        if self.deadline is None:
            smallest = self.candidates[0]
            needed = [
                predicted_seconds(profile, smallest, local_steps=local_steps)
                for profile in profiles.values()
                if memory_needed(profile, smallest) <= profile.memory_bytes
            ]
            self.deadline = max(needed, default=None)
        return {node: self._decide(profile, local_steps) for node, profile in profiles.items()}

    def _decide(self, profile: DeviceProfile, local_steps: int) -> RankDecision:
        deadline = math.inf if self.deadline is None else self.deadline
        refusal = "it is the largest candidate"
        for rank in reversed(self.candidates):
            seconds = predicted_seconds(profile, rank, local_steps=local_steps)
            memory = memory_needed(profile, rank)
            if memory > profile.memory_bytes:
                refusal = (
                    f"rank {rank} needs {memory / 1e9:.2f} GB of memory, "
                    f"the device has {profile.memory_bytes / 1e9:.2f} GB"
                )
            # The slack is for rounding: the automatic deadline is itself such a sum.
            elif seconds > deadline * (1 + 1e-9):
                refusal = f"rank {rank} needs {seconds:.1f} s, the deadline is {deadline:.1f} s"
            else:
                return RankDecision(rank, seconds, refusal)
        return RankDecision(None, seconds, refusal)


def predicted_seconds(profile: DeviceProfile, rank: int, *, local_steps: int) -> float:
    """Seconds that a round takes the device at `rank`: training, then upload."""
    upload = rank * profile.upload_per_rank / profile.bandwidth
    return local_steps * StepCost.fit(profile).at(rank) + upload


def memory_needed(profile: DeviceProfile, rank: int) -> int:
    """Bytes that training takes on the device at `rank`."""
    return profile.fixed_bytes + rank * profile.bytes_per_rank
