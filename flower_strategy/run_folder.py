"""Reads a run's folder; `flower_strategy.server.export` describes its contents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from floe_plugins.errors import FloeError

MANIFEST_FILE = "manifest.json"
HISTORY_FILE = "history.json"
FORMAT = 1
"""The version of both files that this code reads and writes."""

_ROUND = "round-"


class RunFolderError(FloeError, ValueError):
    """A folder does not hold a readable run; the message names the file."""


def round_name(server_round: int) -> str:
    """Return the name of a round's folder."""
    return f"{_ROUND}{server_round:04d}"


def round_of(name: str) -> int | None:
    """Return the round that a folder's name begins with; None of other names."""
    digits = name.removeprefix(_ROUND).partition("-")[0]
    return int(digits) if name.startswith(_ROUND) and digits.isdecimal() else None


def result_folder(folder: Path | str) -> Path:
    """Return the folder of a run's current result, which a later result does not change.

    Who reads several of its files there reads them of one result.
    """
    path = Path(folder) / MANIFEST_FILE
    return path.resolve().parent if path.is_file() else Path(folder)


def load_manifest(folder: Path | str) -> dict[str, Any]:
    """Read a run's manifest.

    Raises
    ------
    RunFolderError
        The file is absent, or is not JSON of the known version with clusters and devices.
    """
    return _load(Path(folder), MANIFEST_FILE, lists=("clusters", "devices"))


def load_history(folder: Path | str) -> dict[str, Any]:
    """Read a run's history.

    Raises
    ------
    RunFolderError
        The file is absent, or is not JSON of the known version with rounds.
    """
    return _load(Path(folder), HISTORY_FILE, lists=("rounds",))


def _load(folder: Path, name: str, *, lists: tuple[str, ...]) -> dict[str, Any]:
    path = folder / name
    if not folder.is_dir():
        raise RunFolderError(f"There is no folder {folder}; name the output folder of a run.")
    try:
        # JSON has neither NaN nor infinity; such a number counts as absent.
        content = json.loads(path.read_text("utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError as error:
        raise RunFolderError(
            f"{folder} holds no {name}; name the output folder of a run that has ended a round."
        ) from error
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} is no JSON that can be read: {error}.") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise RunFolderError(f"{path} has format {found!r}; this version of Floe reads {FORMAT}.")
    for key in lists:
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise RunFolderError(f"{path} has no list of objects {key!r}; it is damaged.")
    return dict(content)
