"""Checkpoints: after every round all that the next one depends on, whole or not there at all.

The output folder's ``checkpoints``::

    round-0003/state.json           profiles, decisions, paces, clusters, history
    round-0003/arrays.safetensors   initial adapter, banks, velocities, embeddings, sketches

A checkpoint is written into a folder of another name and renamed when everything is on the disk,
so a folder named ``round-...`` is complete, whenever the server dies. Random choices are drawn
from (seed, round), so no generator's state need be kept.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from floe_plugins import files
from floe_plugins.errors import ConfigError
from flower_strategy.checkpoint_content import pack, unpack
from flower_strategy.state import RunState

CHECKPOINTS_FOLDER = "checkpoints"
STATE_FILE = "state.json"
ARRAYS_FILE = "arrays.safetensors"

_FORMAT = 1
_PREFIX = "round-"
_PREVIOUS = ".previous"
_ABANDONED = ".abandoned"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run after one of its rounds.

    Attributes
    ----------
    round : int
        The round that was finished.
    state : RunState
        The run.
    deadline : float or None
        Seconds that the rank policy had found for a round.
    settings : dict[str, Any]
        The settings that the run had, to compare with those that it goes on with.
    path : Path
        Where it was read from.
    """

    round: int
    state: RunState
    deadline: float | None
    settings: dict[str, Any]
    path: Path


def save_checkpoint(
    state: RunState,
    output: Path,
    *,
    server_round: int,
    deadline: float | None,
    settings: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write a checkpoint, then remove those that are older than the newest `keep`.

    Parameters
    ----------
    state : RunState
        The run.
    output : Path
        The run's output folder; made when absent.
    server_round : int
        The round that is finished.
    deadline : float or None
        The rank policy's.
    settings : Mapping[str, Any]
        Settings of the run, values that JSON knows.
    keep : int
        Checkpoints to keep, at least 1.

    Returns
    -------
    Path
        The checkpoint's folder.

    Raises
    ------
    OSError
        It cannot be written; nothing of it is left behind.
    """
    folder = output / CHECKPOINTS_FOLDER
    target = folder / f"{_PREFIX}{server_round:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    files.remove_parts(target)
    content, arrays = pack(state)
    head = {
        "format": _FORMAT,
        "round": server_round,
        "deadline": deadline,
        "settings": dict(settings),
    }
    try:
        with files.new_folder(target, replace=True, durable=True) as part:
            save_file(arrays, part / ARRAYS_FILE)
            (part / STATE_FILE).write_text(json.dumps({**head, **content}), encoding="utf-8")
    # safetensors has an error of its own for what the disk refuses.
    except SafetensorError as error:
        raise OSError(str(error)) from error
    for old in _complete(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def set_aside_checkpoints(output: Path) -> None:
    """Rename an earlier run's checkpoints, so that a new run's are not mixed with them.

    They are kept under ``checkpoints.previous`` until the next run.
    """
    folder = output / CHECKPOINTS_FOLDER
    if not folder.exists():
        return
    previous = folder.with_name(folder.name + _PREVIOUS)
    shutil.rmtree(previous, ignore_errors=True)
    folder.rename(previous)


def refuse_foreign_checkpoints(output: Path, resumed: Checkpoint) -> None:
    """Make sure that a resumed run does not mix its checkpoints with another run's.

    Raises
    ------
    ConfigError
        The output folder holds checkpoints, and the run does not go on from one of them.
    """
    folder = output / CHECKPOINTS_FOLDER
    if folder.exists() and resumed.path.parent.resolve() != folder.resolve():
        raise ConfigError(
            f"The output folder {output} holds checkpoints, and resume names another run's, "
            f"{resumed.path}: choose another output, or resume={str(output)!r}."
        )


def set_aside_later_checkpoints(output: Path, resumed: Checkpoint) -> None:
    """Rename the checkpoints of rounds that are now made again, so that none is taken for newer.

    They stay as ``round-NNNN.abandoned``. Where the run goes on in another folder than the one that
    it is resumed from, that one stays as it is.
    """
    for path in _complete(output / CHECKPOINTS_FOLDER):
        if int(path.name[len(_PREFIX) :]) > resumed.round:
            aside = path.with_name(path.name + _ABANDONED)
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint, the newest where the path is that of a run.

    Parameters
    ----------
    path : Path or str
        A run's output folder, its ``checkpoints``, or one checkpoint.

    Raises
    ------
    ConfigError
        There is none, or it cannot be read.
    """
    given = Path(path).expanduser().absolute()
    for candidate in (given, given / CHECKPOINTS_FOLDER):
        if (candidate / STATE_FILE).is_file():
            return _read(candidate)
        if complete := _complete(candidate):
            return _read(complete[-1])
    raise ConfigError(
        f"There is no checkpoint at {given}: resume must name a run's output folder, or one of "
        f"the folders {CHECKPOINTS_FOLDER}/{_PREFIX}NNNN in it."
    )


def _read(folder: Path) -> Checkpoint:
    try:
        content = json.loads((folder / STATE_FILE).read_text("utf-8"))
        if content.get("format") != _FORMAT:
            raise ConfigError(
                f"Checkpoint {folder} has format {content.get('format')!r}; this version of Floe "
                f"reads format {_FORMAT}."
            )
        state = unpack(content, load_file(folder / ARRAYS_FILE))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"Checkpoint {folder} cannot be read: {error!r}.") from error
    return Checkpoint(content["round"], state, content["deadline"], content["settings"], folder)


def _complete(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a folder, oldest first."""
    found = [path for path in folder.glob(f"{_PREFIX}*") if path.name[len(_PREFIX) :].isdigit()]
    return sorted(found, key=lambda path: int(path.name[len(_PREFIX) :]))
