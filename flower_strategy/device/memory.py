"""How much memory this process may still take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


def available_memory(*, root: Path = Path("/")) -> int:
    """Return the bytes that this process may still take.

    The machine's own, within the limits of the process's control group and of every group above
    it: any of them can be the tightest. Both hierarchies count, version 2 (``memory.max`` and
    ``memory.high``) and version 1 (``memory.limit_in_bytes``). File pages that a group could drop
    at once (``inactive_file``) are not held against it, as ``MemAvailable`` does not hold them
    against the machine.

    Parameters
    ----------
    root : Path (default: /)
        Where ``proc`` and the mounted control groups are looked for.
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
    """Names within a control group's folder, and the line of ``memory.stat``."""

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
        The group that is mounted there; in a container that is often not ``/``.
    group : PurePosixPath
        The process's group.
    files : _GroupFiles
        How its files are called.
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
    """Return a file's number; None where there is no file, or it says ``max``."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
