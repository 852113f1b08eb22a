"""A folder that is either complete and unchanged since it was written, or absent.

It is filled as a hidden sibling under a lock and renamed into place. Its manifest, written last,
holds the size and SHA-256 of every other file.
"""

import contextlib
import errno
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from floe_plugins import files
from floe_plugins.errors import ModelError
from floe_plugins.system import CACHE_VARIABLE

logger = logging.getLogger(__name__)

MANIFEST = "floe-manifest.json"

# Files up to this size are hashed again at every use; larger ones are checked by size.
_SMALL_BYTES = 1 << 20

_BLOCK_BYTES = 1 << 20


def sha256_of(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Parameters
    ----------
    advance : callable, optional
        Called with the number of bytes read since the last call.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            if advance is not None:
                advance(len(block))
    return digest.hexdigest()


def fault(folder: Path, *, thorough: bool = False) -> str | None:
    """Return what is wrong with a folder that has a manifest.

    Parameters
    ----------
    thorough : bool, optional
        Hash every file, not just those up to 1 MiB.

    Returns
    -------
    str or None
        A clause such as ``config.json has changed``, or None if nothing is wrong.
    """
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is missing or unreadable"
    for name, recorded in entries.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != recorded["bytes"]:
                return f"{name} has {size} bytes instead of {recorded['bytes']}"
            hashed = thorough or size <= _SMALL_BYTES
            if hashed and sha256_of(path) != recorded["sha256"]:
                return f"{name} has changed"
        except OSError:
            return f"{name} cannot be read"
    return None


def make(folder: Path, fill: Callable[[Path], None], *, facts: dict[str, Any]) -> Path:
    """Return the complete folder, filling it first if it is absent or damaged.

    Parameters
    ----------
    fill : callable
        Writes the files into the empty folder that it is given.
    facts : dict
        JSON values for the manifest, besides the checksums.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    ModelError
        The folder cannot be written; one sentence that says what to do. After this, and after an
        interruption, no part is left.
    """
    if fault(folder) is None:
        return folder
    remedy = f"set {CACHE_VARIABLE} to a folder elsewhere"
    with explained(folder.parent, otherwise=remedy):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f".{folder.name}.lock")
        with files.locked(lock, without_locks="fail", on_wait=lambda: _waits(folder)):
            # The previous holder of the lock may have built it.
            damage = fault(folder) if folder.exists() else None
            if damage is None and folder.exists():
                return folder
            files.remove_parts(folder)
            if damage is not None:
                logger.warning("Making %s again: %s.", folder, damage)
            write(folder, fill, facts=facts, replace=damage is not None)
    return folder


def write(
    folder: Path, fill: Callable[[Path], None], *, facts: dict[str, Any], replace: bool = False
) -> None:
    """Write a folder and its manifest; it appears when it is complete.

    Parameters
    ----------
    folder : Path
        Absent or empty; with `replace`, it may have content.
    fill, facts : callable, dict
        As for `make`.
    replace : bool, optional
        Replace existing content.

    Raises
    ------
    OSError
        It cannot be written. After this, and after an interruption, no part is left.
    """
    with files.new_folder(folder, replace=replace, durable=True) as work:
        fill(work)
        _write_manifest(work, facts)


@contextlib.contextmanager
def explained(parent: Path, *, otherwise: str) -> Iterator[None]:
    """Turn an error of the file system into a `ModelError`: one sentence that says what to do.

    Parameters
    ----------
    parent : Path
        The folder that is written to.
    otherwise : str
        An alternative to repairing it, as the end of a sentence.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(_existing(parent)).free / 1e9
            raise ModelError(
                f"The disk with {parent} is full ({free:.1f} GB free): free at least 2 GB there, "
                f"or {otherwise}."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ModelError(
                f"{parent} cannot be written ({error.strerror}): make it writable, or {otherwise}."
            ) from error
        raise ModelError(
            f"Writing to {parent} failed ({error.strerror or type(error).__name__}): check that "
            f"disk, or {otherwise}."
        ) from error


def _waits(folder: Path) -> None:
    logger.warning("Waiting for another process that is making %s.", folder)


def _write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    entries = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        entries[path.relative_to(folder).as_posix()] = {
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
    text = json.dumps({**facts, "files": entries}, indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())
