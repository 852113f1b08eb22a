"""The texts that benchmarks take when nobody names others, where they lie beside the project."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError

_FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"
_TASKS = ("gsm8k_train.jsonl", "pubmedqa_train.jsonl")
_LABELLED = "pii_dev.jsonl"


@dataclass(frozen=True, kw_only=True)
class Data:
    """JSONL files by what they are for.

    Attributes
    ----------
    tasks : tuple of Path
        Questions and answers, or prompts and responses; every file is one task.
    labelled : tuple of Path
        Texts with their private spans.
    """

    tasks: tuple[Path, ...]
    labelled: tuple[Path, ...]


def find_data(folder: Path) -> Data:
    """Sort a folder's JSONL files by the keys of their first lines.

    Raises
    ------
    ConfigError
        There is no such folder, it has no JSONL file, or one does not begin with a JSON object.
    """
    if not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is no folder; one with JSONL files is accepted.")
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise ConfigError(f"{str(folder)!r} has no JSONL file.")
    labelled = {file for file in files if "spans" in first_row(file)}
    return Data(
        tasks=tuple(file for file in files if file not in labelled),
        labelled=tuple(sorted(labelled)),
    )


def first_row(file: Path) -> dict[str, Any]:
    """Return a JSONL file's first row, by whose keys its kind is told.

    Raises
    ------
    ConfigError
        It is no JSON object.
    """
    with file.open(encoding="utf-8") as lines:
        text = next((line for line in lines if line.strip()), "")
    try:
        row = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{file.name} begins with no JSON object: {error}.") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{file.name} begins with no JSON object: {row!r}.")
    return row


def task_files() -> list[Path]:
    """Return GSM8K and PubMedQA, relative to the present folder; nothing if one is missing."""
    files = [_FOLDER / name for name in _TASKS]
    return [_relative(file) for file in files] if all(map(Path.is_file, files)) else []


def labelled_file() -> Path | None:
    """Return prompts with labelled private spans, relative to the present folder, or None."""
    file = _FOLDER / _LABELLED
    return _relative(file) if file.is_file() else None


def _relative(file: Path) -> Path:
    # Results say which file was read, and not where this machine keeps its folders.
    return Path(os.path.relpath(file))
