"""Where the time of devices goes in a round: training, transport and waiting for the slowest."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class TimeSpent:
    """Seconds on the clocks of one or more devices, in one or more rounds.

    Attributes
    ----------
    training, transport : float
        Seconds of training, and of download and upload.
    idle : float
        Seconds from the device's reply until that of the round's slowest device.
    """

    training: float = 0.0
    transport: float = 0.0
    idle: float = 0.0

    @property
    def whole(self) -> float:
        """All of these seconds."""
        return self.training + self.transport + self.idle

    def shares(self) -> tuple[float, float, float]:
        """Return the shares of training, transport and idle; zeros without any time."""
        whole = self.whole or 1.0
        return self.training / whole, self.transport / whole, self.idle / whole

    def __add__(self, other: TimeSpent) -> TimeSpent:
        return TimeSpent(
            self.training + other.training,
            self.transport + other.transport,
            self.idle + other.idle,
        )


def time_spent(
    devices: Iterable[tuple[Key, float | None, float | None]],
) -> dict[Key, TimeSpent]:
    """Return how the devices that trained in a round spent it; it lasts as long as the slowest.

    Parameters
    ----------
    devices : Iterable
        Device, its seconds of download, training and upload, and those of download and upload
        among them. A device without the first has not trained, and is left out.
    """
    trained = [
        (key, seconds, min(transfer or 0.0, seconds))
        for key, seconds, transfer in devices
        if seconds is not None
    ]
    longest = max((seconds for _, seconds, _ in trained), default=0.0)
    return {
        key: TimeSpent(seconds - transfer, transfer, longest - seconds)
        for key, seconds, transfer in trained
    }


def summed(rounds: Iterable[Mapping[Key, TimeSpent]]) -> dict[Key, TimeSpent]:
    """Return each device's time over rounds."""
    found: dict[Key, TimeSpent] = {}
    for spent in rounds:
        for key, time in spent.items():
            found[key] = found.get(key, TimeSpent()) + time
    return found
