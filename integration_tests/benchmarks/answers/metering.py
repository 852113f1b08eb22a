"""What an answer costs the processors: seconds of all processes of a server, joules where told."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

#: Intel's and AMD's counters of whole packages; their parts, such as ``intel-rapl:0:0``, are not
#: counted twice.
_POWERCAP = Path("/sys/class/powercap")
_PACKAGES = "intel-rapl:[0-9]"


@dataclass(frozen=True)
class Reading:
    """A meter's state.

    Attributes
    ----------
    cpu : Mapping[str, float]
        Server -> seconds that its processes have computed.
    microjoules : Mapping[str, int]
        Package -> energy counter; empty where it cannot be read.
    """

    cpu: Mapping[str, float]
    microjoules: Mapping[str, int]


class Meter:
    """Reads the processor seconds of process trees and the energy of the packages.

    Parameters
    ----------
    processes : Mapping[str, int]
        Name -> id of the tree's root.
    powercap : Path
        Where the kernel shows RAPL.
    """

    def __init__(self, processes: Mapping[str, int], *, powercap: Path = _POWERCAP) -> None:
        self._roots = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._packages: dict[str, Path] = {}
        for package in sorted(powercap.glob(_PACKAGES)):
            # Most kernels show the counter to root alone.
            with contextlib.suppress(OSError, ValueError):
                int((package / "energy_uj").read_text())
                self._packages[package.name] = package

    def read(self) -> Reading:
        """Read all counters."""
        return Reading(
            {name: _cpu_seconds(root) for name, root in self._roots.items()},
            {name: _integer(package / "energy_uj") for name, package in self._packages.items()},
        )

    def cpu_between(self, before: Reading, after: Reading, names: Sequence[str]) -> float:
        """Return the processor seconds of some of the trees between two readings."""
        return sum(after.cpu[name] - before.cpu[name] for name in names)

    def joules_between(self, before: Reading, after: Reading) -> float | None:
        """Return the joules of all packages between two readings; None where not told."""
        if not self._packages:
            return None
        total = 0
        for name, package in self._packages.items():
            spent = after.microjoules[name] - before.microjoules[name]
            # The counter begins again at its largest value.
            total += spent if spent >= 0 else spent + _integer(package / "max_energy_range_uj")
        return total / 1e6


def _cpu_seconds(root: psutil.Process) -> float:
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _integer(path: Path) -> int:
    return int(path.read_text())
