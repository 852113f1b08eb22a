"""Writes files and folders whole or not at all, and locks them between processes.

A file or folder is written beside its place, under a hidden name that ends in ``.part``, and
renamed when it is complete. A process that is killed leaves its part; `remove_parts` removes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

WithoutLocks = Literal["fail", "marker_file", "go_on"]
"""What to do where the file system has no locks; see `locked`."""

_PART = ".part"
_TOKEN_BYTES = 4
_TOKEN = "?" * 2 * _TOKEN_BYTES
# Such file systems keep the names of a folder in an order of their own.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)

# Of Linux's fcntl.h and fs.h.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def write_file(
    path: Path, content: str | bytes, *, mode: int | None = None, durable: bool = False
) -> None:
    """Write a file so that a reader finds the old content or the new one, never a part of it.

    Parameters
    ----------
    path : Path
        The file; its folder exists.
    content : str or bytes
        Text is written as UTF-8.
    mode : int, optional
        Permissions that the file has from the beginning, such as 0o600; those of any new file of
        this process if not given.
    durable : bool (default: False)
        Wait until the disk has the file and its name.

    Raises
    ------
    OSError
        It cannot be written; the old content stays, and no part of the new one. If only the wait
        for the name fails, the new content is there.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with _replaced(path, durable=durable) as part:
        handle = os.open(part, flags, 0o666 if mode is None else mode & 0o600)
        with open(handle, "wb") as file:
            # Some file systems refuse any chmod, and a private file needs none.
            if mode is not None and mode != mode & 0o600:
                os.fchmod(file.fileno(), mode)
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            if durable:
                os.fsync(file.fileno())


@contextlib.contextmanager
def _replaced(path: Path, *, durable: bool) -> Iterator[Path]:
    """Yield the part to make beside `path`, and rename it into place at the end of the block."""
    part = _part(path)
    try:
        yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write beside `path`, and rename it there at the end of the block.

    Parameters
    ----------
    path : Path
        The file; its folder exists. A reader finds the old content or the new one.

    Raises
    ------
    OSError
        It cannot be written; after this, and any error in the block, no part is left.
    """
    with _replaced(path, durable=False) as part:
        yield part


@contextlib.contextmanager
def new_folder(folder: Path, *, replace: bool = False, durable: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `folder`, and rename it into place at the end of the block.

    Parameters
    ----------
    folder : Path
        Absent, or an empty folder; its parent exists.
    replace : bool (default: False)
        Replace a folder that has content. A reader finds the old one, none, or the new one.
    durable : bool (default: False)
        Wait until the disk has all files and the folder's name.

    Raises
    ------
    OSError
        It cannot be written. After this, and any error in the block, no part is left.
    """
    part = _part(folder)
    part.mkdir()
    try:
        yield part
        if durable:
            _sync_tree(part)
        with _moved_aside(folder) if replace and folder.exists() else contextlib.nullcontext():
            part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if durable:
        sync_folder(folder.parent)


def replace_link(path: Path, target: str, *, durable: bool = False) -> None:
    """Make a symbolic link so that a reader finds the old one or the new one.

    Parameters
    ----------
    path : Path
        The link; absent, or a link or file that is replaced.
    target : str
        What it points to; a relative one counts from the link's folder.
    durable : bool (default: False)
        Wait until the disk has it.

    Raises
    ------
    OSError
        It cannot be made; what was there stays. If only the wait fails, the new one is there.
    """
    with _replaced(path, durable=durable) as part:
        part.symlink_to(target)


def replace_by_link(path: Path, target: str, *, parts: Path) -> None:
    """Put a symbolic link in the place of a file or folder, and wait until the disk has it.

    A reader finds what was there or what the link points to. Where the file system cannot exchange
    two names in one step, as some network file systems, a folder is absent for a moment.

    Parameters
    ----------
    path : Path
        What is replaced; it is removed.
    target : str
        What the link points to; a relative path counts from the link's folder.
    parts : Path
        A folder of the same file system, in which parts are left if the process is killed.

    Raises
    ------
    OSError
        It cannot be replaced; what was there stays.
    """
    part = _part(parts / path.name)
    part.symlink_to(target)
    try:
        if path.is_dir() and not path.is_symlink():
            _exchange(part, path)
        else:
            part.replace(path)
    except BaseException:
        _remove([part])
        raise
    sync_folder(path.parent)
    _remove([part])


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def remove_parts(path: Path) -> None:
    """Remove a file's or folder's parts that killed processes left; the caller holds its lock."""
    _remove(path.parent.glob(f".{glob.escape(path.name)}.{_TOKEN}{_PART}"))


def remove_all_parts(folder: Path) -> None:
    """Remove the parts in a folder, of whatever file; its caller alone writes to the folder."""
    _remove(folder.glob(f".*.{_TOKEN}{_PART}"))


@contextlib.contextmanager
def locked(
    path: Path,
    *,
    without_locks: WithoutLocks,
    timeout: float = -1,
    on_wait: Callable[[], None] | None = None,
) -> Iterator[Exception | None]:
    """Hold a lock until the block or the process ends.

    Parameters
    ----------
    path : Path
        The lock's file, which stays; its folder is created if absent.
    without_locks : "fail", "marker_file" or "go_on"
        What to do if locks do not work at all, as on some network file systems: raise the error;
        hold ``PATH`` with the suffix ``.softlock`` instead, a file that exists while it is held,
        and raise if that fails too; or go on without a lock.
    timeout : float (default: -1)
        Seconds to wait for another holder; a negative number waits without limit.
    on_wait : callable, optional
        Called once when another process holds the lock, before waiting for it.

    Yields
    ------
    Exception or None
        Why there is no lock, with ``go_on``.

    Raises
    ------
    TimeoutError
        Another holder kept the lock for that time.
    OSError
        The lock cannot be taken.
    """
    missing: Exception | None = None
    lock: BaseFileLock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lock, timeout, on_wait)
    except Timeout:
        raise
    # filelock raises NotImplementedError if flock is missing.
    except (OSError, NotImplementedError) as error:
        if without_locks == "marker_file" and path.parent.is_dir():
            lock = SoftFileLock(path.with_suffix(".softlock"))
            _acquire(lock, timeout, on_wait)
        elif without_locks == "go_on":
            missing = error
        elif isinstance(error, OSError):
            raise
        else:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK)) from error
    try:
        yield missing
    finally:
        lock.release()


def _acquire(lock: BaseFileLock, timeout: float, on_wait: Callable[[], None] | None) -> None:
    if on_wait is not None:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout:
            on_wait()
    lock.acquire(timeout=timeout)


def _remove(parts: Iterable[Path]) -> None:
    for part in parts:
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def _exchange(link: Path, folder: Path) -> None:
    """Exchange the names of a link and a folder."""
    if _exchanged(link, folder):
        return
    aside = _part(link)
    folder.rename(aside)
    try:
        link.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    aside.rename(link)


def _exchanged(first: Path, second: Path) -> bool:
    """Exchange two names in one step; return whether system and file system can."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(first), None, str(second))


def _part(path: Path) -> Path:
    # Tokens of one length: no name of a part fits another file's pattern in `remove_parts`.
    return path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_BYTES)}{_PART}")


@contextlib.contextmanager
def _moved_aside(folder: Path) -> Iterator[None]:
    """Rename a folder during the block, then remove it; put it back after an error."""
    # Renamed first: a reader must find the old folder, the new one or none, never half of one.
    aside = _part(folder)
    folder.rename(aside)
    try:
        yield
    except BaseException:
        aside.rename(folder)
        raise
    shutil.rmtree(aside)


def _sync_tree(folder: Path) -> None:
    """Wait until the disk has all of a folder, before its new name is there."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)
