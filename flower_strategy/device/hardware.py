"""A device's memory, speed and uplink, real or simulated."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from floe_plugins.errors import ConfigError

GIB = 1024**3

DOWNLINK = 8.0
"""How many times faster than it uploads a device is taken to download."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device.

    Attributes
    ----------
    name : str
        Class of the device, as reports show it.
    memory_bytes : int
        Memory that training may use.
    slowdown : float (default: 1.0)
        How many times slower it is than the machine that simulates it; 1 on a real device.
    bandwidth : float (default: inf)
        Upload in bytes per second; infinite if unknown.
    simulated : bool (default: False)
        Whether another machine simulates it.
    waits : bool (default: False)
        Whether a simulated device really waits, so that its seconds are wall time. Otherwise its
        seconds are those of a virtual clock.
    """

    name: str
    memory_bytes: int
    slowdown: float = 1.0
    bandwidth: float = math.inf
    simulated: bool = False
    waits: bool = False

    @property
    def virtual(self) -> bool:
        """Whether its seconds are those of a virtual clock."""
        return self.simulated and not self.waits

    def upload_seconds(self, num_bytes: int) -> float:
        """Seconds to send `num_bytes`."""
        return num_bytes / self.bandwidth

    def download_seconds(self, num_bytes: int) -> float:
        """Seconds to receive `num_bytes`."""
        return num_bytes / self.bandwidth / DOWNLINK


# Memory available to an app, slowdown relative to a laptop core, and uplink: of a phone on a mobile
# network, an embedded board on shared wireless, and a laptop on a home line.
DEVICE_CLASSES = {
    device.name: device
    for device in (
        Device(name="phone", memory_bytes=3 * GIB, slowdown=3.0, bandwidth=0.25e6, simulated=True),
        Device(
            name="jetson", memory_bytes=6 * GIB, slowdown=2.75, bandwidth=1.25e6, simulated=True
        ),
        Device(name="laptop", memory_bytes=12 * GIB, slowdown=1.0, bandwidth=8e6, simulated=True),
    )
}


def parse_device(text: str) -> Device:
    """Return a simulated device from a class name or ``NAME:GIB:SLOWDOWN:MBPS``.

    Raises
    ------
    ConfigError
        The text is neither.
    """
    if text in DEVICE_CLASSES:
        return DEVICE_CLASSES[text]
    name, *numbers = text.split(":")
    try:
        memory, slowdown, bandwidth = (float(number) for number in numbers)
    except ValueError:
        memory = slowdown = bandwidth = 0.0
    if not name or not all(0 < number < math.inf for number in (memory, slowdown, bandwidth)):
        raise ConfigError(
            f"Run configuration devices has {text!r}, which is no device class: it must be one of "
            f"{', '.join(DEVICE_CLASSES)}, or NAME:GIB:SLOWDOWN:MBPS with numbers above 0."
        )
    return Device(
        name=name,
        memory_bytes=int(memory * GIB),
        slowdown=slowdown,
        bandwidth=bandwidth * 1e6,
        simulated=True,
    )


def simulated_device(classes: Sequence[str], partition_id: int, *, waits: bool = False) -> Device:
    """Return the device of a simulated node; the classes are assigned in turn."""
    return replace(parse_device(classes[partition_id % len(classes)]), waits=waits)


def this_device(
    node_config: Mapping[str, str | int | float | bool], *, memory_bytes: int | None = None
) -> Device:
    """Return the device that this process runs on, as far as it can be measured.

    Parameters
    ----------
    node_config : Mapping
        ``flower-supernode --node-config``: ``device`` names it, ``bandwidth-mbps`` is its upload
        in MB/s, ``memory-gib`` lowers the memory that training may use.
    memory_bytes : int, optional
        Memory that training may use; by default what is available to this process.

    Raises
    ------
    ConfigError
        A value is not a positive number.
    """
    memory = available_memory() if memory_bytes is None else memory_bytes
    if "memory-gib" in node_config:
        memory = min(memory, int(_positive(node_config, "memory-gib") * GIB))
    bandwidth = math.inf
    if "bandwidth-mbps" in node_config:
        bandwidth = _positive(node_config, "bandwidth-mbps") * 1e6
    return Device(
        name=str(node_config.get("device", "device")), memory_bytes=memory, bandwidth=bandwidth
    )


def _positive(node_config: Mapping[str, str | int | float | bool], key: str) -> float:
    value = node_config[key]
    if isinstance(value, (bool, str)) or not 0 < value < math.inf:
        raise ConfigError(f"--node-config {key}={value!r} must be a number above 0.")
    return float(value)


class Stopwatch:
    """Seconds of work on a device.

    On a real device they are wall time. Simulated devices share one machine, so their clock is
    virtual: processor time per thread, which other work on the machine does not lengthen, times
    the device's slowdown. A simulated device that waits uses wall time, stretched to its slowdown.

    Parameters
    ----------
    device : Device
        The device.
    threads : int
        Number of threads that the work runs on.
    """

    def __init__(self, device: Device, *, threads: int) -> None:
        self._device = device
        self._threads = threads
        self._read: Callable[[], float] = time.process_time if device.virtual else time.perf_counter
        self._start = self._read()

    def seconds(self) -> float:
        """Return the seconds of the work so far on the device's clock, without waiting."""
        return self._elapsed() * self._device.slowdown

    def finish(self, *, upload_bytes: int, download_bytes: int = 0) -> float:
        """Return the seconds of the work so far, of a download before it and an upload after it.

        A simulated device that waits sleeps here until they have passed, and returns the elapsed
        wall time. That is longer if the machine woke it late, or if the work alone took longer than
        the device would have needed (a slowdown below 1).
        """
        transfer = self._device.upload_seconds(upload_bytes)
        transfer += self._device.download_seconds(download_bytes)
        expected = self.seconds() + transfer
        if not self._device.waits:
            return expected
        time.sleep(max(0.0, expected - self._elapsed()))
        return self._elapsed()

    def _elapsed(self) -> float:
        elapsed = self._read() - self._start
        return elapsed / self._threads if self._device.virtual else elapsed


def available_memory(*, root: Path = Path("/")) -> int:
    """Return the bytes of memory available to this process.

    The machine's available memory, within the limits of the process's control group and of every
    group above it, any of which can be the tightest. Both hierarchies count: version 2
    (``memory.max`` and ``memory.high``) and version 1 (``memory.limit_in_bytes``). File pages that
    a group can drop immediately (``inactive_file``) count as available, as they do in
    ``MemAvailable``.

    Parameters
    ----------
    root : Path (default: /)
        Where to look for ``proc`` and the mounted control groups.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    for mount in _memory_mounts(root):
        for folder in mount.groups():
            for limit_name in mount.files.limits:
                limit = _number(root / folder / limit_name)
                if limit is not None:
                    used = _number(root / folder / mount.files.used) or 0
                    droppable = _droppable(root / folder / "memory.stat", mount.files.droppable)
                    free = min(free, max(0, limit - max(0, used - droppable)))
    return free


@dataclass(frozen=True)
class _GroupFiles:
    """File names in a control group's folder, and the key in ``memory.stat``."""

    limits: tuple[str, ...]
    used: str
    droppable: str


_VERSION_1 = _GroupFiles(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _GroupFiles(("memory.max", "memory.high"), "memory.current", "inactive_file")


@dataclass(frozen=True, kw_only=True)
class _Mount:
    """One mounted hierarchy that limits memory.

    Attributes
    ----------
    point : PurePosixPath
        Where it is mounted, relative to the root.
    top : PurePosixPath
        The group that is mounted there; in a container often not ``/``.
    group : PurePosixPath
        The process's group.
    files : _GroupFiles
        The names of its files.
    """

    point: PurePosixPath
    top: PurePosixPath
    group: PurePosixPath
    files: _GroupFiles

    def groups(self) -> Iterator[PurePosixPath]:
        """Yield the folders of the process's group and of those above it, as far as mounted."""
        within = PurePosixPath()
        if self.group.is_relative_to(self.top):
            within = self.group.relative_to(self.top)
        for part in (within, *within.parents):
            if ".." not in part.parts:
                yield self.point / part


def _memory_mounts(root: Path) -> Iterator[_Mount]:
    groups = _own_groups(root)
    for line in _lines(root / "proc/self/mountinfo"):
        # Kernel documentation, filesystems/proc: "id parent device top point options
        # [optional fields] - type source super-options".
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        top, point = (PurePosixPath(text) for text in before.split()[3:5])
        if kind == "cgroup2":
            files, group = _VERSION_2, groups.get("", "/")
        elif kind == "cgroup" and "memory" in options.split()[-1].split(","):
            files, group = _VERSION_1, groups.get("memory", "/")
        else:
            continue
        yield _Mount(point=point.relative_to("/"), top=top, group=PurePosixPath(group), files=files)


def _own_groups(root: Path) -> dict[str, str]:
    """Return controller -> the process's group; the empty controller is version 2's."""
    groups = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), group))
    return groups


def _droppable(path: Path, key: str) -> int:
    for line in _lines(path):
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    """Return a file's number; None if there is no file, or it says ``max``."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
