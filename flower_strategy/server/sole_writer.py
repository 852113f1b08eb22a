"""One run at a time writes to an output folder."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from floe_plugins.errors import ConfigError

LOCK_FILE = ".floe-run.lock"

logger = logging.getLogger("flwr")

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def sole_writer(output: Path | None) -> Iterator[None]:
    """Keep other runs of this machine out of an output folder, which is made when absent.

    Two runs in one folder would rename and remove each other's checkpoints. The lock is the
    process's: it ends with it, however it ends. That the folder can be written is found out here,
    before hours of training and not after them.

    Parameters
    ----------
    output : Path or None
        The folder; None locks nothing.

    Raises
    ------
    ConfigError
        Another run writes there, or nobody can.
    """
    if output is None:
        yield
        return
    lock = FileLock(output / LOCK_FILE, timeout=0)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_be_written(output, error) from error
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"Another run writes to the output folder {output}: wait for its end, or choose "
            "another output."
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno in _NOT_WRITABLE:
            raise _cannot_be_written(output, error) from error
        # Some network file systems know no locks; a run may use them all the same.
        logger.warning("The output folder %s is not locked: %s", output, error)
    try:
        yield
    finally:
        lock.release()


def _cannot_be_written(output: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"The output folder {output} cannot be written ({error.strerror}): choose another output."
    )
