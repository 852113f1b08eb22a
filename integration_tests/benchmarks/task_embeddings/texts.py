"""Texts of several tasks: GSM8K, PubMedQA, and the source of Python's standard library."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from floe_plugins.errors import ConfigError
from flower_strategy.data.embedded import TASKS, make_examples
from flower_strategy.data.jsonl import find_files, read_examples
from integration_tests.benchmarks.data import task_files

_SHORTEST = 200  # characters of a function that is worth a text


def read_tasks(data: str | None, *, count: int, seed: int) -> dict[str, list[str]]:
    """Return task -> `count` texts.

    Parameters
    ----------
    data : str or None
        JSONL files separated by commas, in place of GSM8K and PubMedQA. Code of Python's standard
        library is one more task. Where there is no file at all, the embedded tasks are taken.
    count : int
        Texts of each task.
    seed : int
        Which texts are drawn.

    Raises
    ------
    ConfigError
        A file is missing or not understood, or has too few texts.
    """
    if data is not None:
        files = find_files(data)
    else:
        files = {file.stem.removesuffix("_train"): file for file in task_files()}
        if not files:
            return {
                task: [each.text for each in make_examples(task, count=count, seed=seed)]
                for task in TASKS
            }
    tasks = {name: [each.text for each in read_examples(file)] for name, file in files.items()}
    tasks["stdlib code"] = list(_functions())
    drawn = {}
    for name, texts in tasks.items():
        if len(texts) < count:
            raise ConfigError(f"Task {name!r} has {len(texts)} texts; {count} are needed.")
        order = np.random.default_rng(seed).permutation(len(texts))[:count]
        drawn[name] = [texts[int(row)] for row in order]
    return drawn


def _functions() -> Iterator[str]:
    """Yield functions of the standard library's modules, in the order of the files."""
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        source = file.read_text("utf-8")
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef):
                text = ast.get_source_segment(source, node) or ""
                if len(text) >= _SHORTEST:
                    yield text
