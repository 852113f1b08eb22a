"""What a rank costs a device, and the protocol of rank policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from flower_strategy.device.hardware import DOWNLINK
from flower_strategy.profile import DeviceProfile

_IN_MEMORY = 4 * 4
"""Bytes in memory for each byte of an adapter that comes in eight bits and is not trained: float32,
as it came, less the device's own part, beside the device's own adapter, and in the model."""


@dataclass(frozen=True)
class StepCost:
    """Seconds of one optimizer step as a line in the rank, ``base + slope * rank``."""

    base: float
    slope: float

    @classmethod
    def fit(cls, profile: DeviceProfile) -> StepCost:
        """Fit the line to the two ranks that the device timed.

        A higher rank never takes less time; if noise suggests it does, the slope is 0 and the base
        is the mean.
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
    """A policy's decision for one device.

    Attributes
    ----------
    rank : int or None
        The rank; None if the device is left out.
    predicted_seconds : float
        Predicted seconds of a round at that rank, or at the smallest rank if left out.
    reason : str
        Why the device gets this rank and no higher one, or is left out.
    """

    rank: int | None
    predicted_seconds: float
    reason: str


class RankPolicy(Protocol):
    """Assigns every device a rank, or leaves it out.

    Attributes
    ----------
    name : str
        The policy's name in reports.
    candidates : tuple[int, ...]
        The ranks that it chooses from, ascending. Devices time the first and the last.
    deadline : float or None
        Seconds that a round may take on a device; None if the policy has no deadline, or none yet.
        A checkpoint keeps it.
    """

    name: str
    candidates: tuple[int, ...]
    deadline: float | None

    def assign(
        self,
        profiles: Mapping[int, DeviceProfile],
        *,
        local_steps: Mapping[int, int],
        pace: Mapping[int, float],
    ) -> dict[int, RankDecision]:
        """Return one decision per profile.

        Called with all devices of the run, whenever one joins or a slowdown changes.

        Parameters
        ----------
        profiles : Mapping[int, DeviceProfile]
            Node id -> its profile.
        local_steps : Mapping[int, int]
            Node id -> optimizer steps of its round; with ``epochs`` they follow its examples.
        pace : Mapping[int, float]
            Node id -> how many times longer than measured its training takes, see
            `flower_strategy.server.state`; 1 for nodes that are not in it.
        """


def training_seconds(profile: DeviceProfile, rank: int, *, local_steps: int) -> float:
    """Seconds of a round's training at `rank`, from the device's measurements."""
    return local_steps * StepCost.fit(profile).at(rank)


def upload_seconds(profile: DeviceProfile, rank: int) -> float:
    """Seconds to upload an adapter of `rank`."""
    return rank * profile.upload_per_rank / profile.bandwidth


def download_seconds(profile: DeviceProfile, rank: int) -> float:
    """Seconds to download the cluster's adapter on a device that trains at `rank`."""
    return upload_seconds(profile, max(rank, profile.download_rank)) / DOWNLINK


def transfer_seconds(profile: DeviceProfile, *, bytes_up: float, bytes_down: float) -> float:
    """Seconds to upload and to download so many bytes."""
    return (bytes_up + bytes_down / DOWNLINK) / profile.bandwidth


def predicted_seconds(
    profile: DeviceProfile, rank: int, *, local_steps: int, slowdown: float = 1.0
) -> float:
    """Predicted seconds of a round at `rank`: download, slowed-down training, upload."""
    training = training_seconds(profile, rank, local_steps=local_steps)
    transfer = download_seconds(profile, rank) + upload_seconds(profile, rank)
    return slowdown * training + transfer


def memory_needed(profile: DeviceProfile, rank: int) -> int:
    """Bytes that training takes on the device at `rank`.

    Its cluster's adapter may come down at a higher rank. The terms that it has more are in memory
    too, without those copies that only training needs.
    """
    more = max(0, profile.download_rank - rank)
    fixed = more * profile.upload_per_rank * _IN_MEMORY
    return profile.fixed_bytes + rank * profile.bytes_per_rank + fixed
