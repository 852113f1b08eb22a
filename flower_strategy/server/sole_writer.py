"""Locks an output folder, so that one run at a time writes to it."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from floe_plugins import files
from floe_plugins.errors import ConfigError

LOCK_FILE = ".floe-run.lock"

logger = logging.getLogger("flwr")

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def sole_writer(output: Path | None) -> Iterator[None]:
    """Keep other runs of this machine out of an output folder, which is created if absent.

    Two runs in one folder would rename and remove each other's checkpoints. The lock ends with the
    process, however it ends. A folder that cannot be written is reported here, before hours of
    training.

    Parameters
    ----------
    output : Path or None
        The folder; None locks nothing.

    Raises
    ------
    ConfigError
        Another run writes there, or the folder cannot be written.
    """
    if output is None:
        yield
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_be_written(output, error) from error
    with ExitStack() as held:
        try:
            missing = held.enter_context(
                files.locked(output / LOCK_FILE, without_locks="go_on", timeout=0)
            )
        except TimeoutError:
            raise ConfigError(
                f"Another run writes to the output folder {output}: wait for its end, or choose "
                "another output."
            ) from None
        if isinstance(missing, OSError) and missing.errno in _NOT_WRITABLE:
            raise _cannot_be_written(output, missing) from missing
        if missing is not None:
            logger.warning("The output folder %s is not locked: %s", output, missing)
        yield


def _cannot_be_written(output: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"The output folder {output} cannot be written ({error.strerror}): choose another output."
    )
