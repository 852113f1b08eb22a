"""The default models and texts of the benchmarks."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError

#: The two models that benchmarks compare, from installed packages.
SMOLLM2 = "embedded:smollm2-135m-instruct"
GEMMA = "embedded:gemma-3-270m"

# Data sets, if present, are in a folder beside the project.
_FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"
_TASKS = ("gsm8k_train.jsonl", "pubmedqa_train.jsonl")
_TESTS = ("eval/gsm8k_test.jsonl", "eval/arc_challenge_test.jsonl")
_LABELLED = "pii_dev.jsonl"
_BENIGN = "gate/benign.jsonl"


@dataclass(frozen=True, kw_only=True)
class Data:
    """JSONL files by purpose."""

    tasks: tuple[Path, ...]  # questions and answers, or prompts and responses; one task each
    labelled: tuple[Path, ...]  # texts with their private spans


def find_data(folder: Path) -> Data:
    """Sort a folder's JSONL files by the keys of their first lines."""
    if not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is no folder; one with JSONL files is accepted.")
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise ConfigError(f"{str(folder)!r} has no JSONL file.")
    labelled = tuple(file for file in files if "spans" in first_row(file))
    return Data(tasks=tuple(file for file in files if file not in labelled), labelled=labelled)


def first_row(file: Path) -> dict[str, Any]:
    """Return a JSONL file's first row, whose keys tell the file's kind."""
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
    return _found(_TASKS)


def tests_or_embedded() -> str:
    """Return the tests of GSM8K and ARC-Challenge likewise, or ``embedded``."""
    return ",".join(map(str, _found(_TESTS))) or "embedded"


def tasks_or_embedded() -> str:
    """Return `task_files` separated by commas, or ``embedded`` where they are missing."""
    return ",".join(map(str, task_files())) or "embedded"


def labelled_file() -> Path | None:
    """Return prompts with labelled private spans, relative to the present folder, or None."""
    return _file(_LABELLED)


def benign_file() -> Path | None:
    """Return ordinary prompts with their sources, likewise."""
    return _file(_BENIGN)


def shown(model: str) -> str:
    """Return how results name a model: a folder by its own name, wherever it is."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model


def _file(name: str) -> Path | None:
    file = _FOLDER / name
    return _relative(file) if file.is_file() else None


def _found(names: Sequence[str]) -> list[Path]:
    files = [_FOLDER / name for name in names]
    return [_relative(file) for file in files] if all(map(Path.is_file, files)) else []


def _relative(file: Path) -> Path:
    # Results say which file was read, and not where this machine keeps its folders.
    return Path(os.path.relpath(file))
