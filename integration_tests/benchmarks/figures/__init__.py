"""One file per benchmark: its figure, drawn from its JSON and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from integration_tests.benchmarks.figures.style import save


def draw(name: str, values: Mapping[str, Any], file: Path) -> None:
    """Draw a benchmark's figure as PNG.

    Parameters
    ----------
    name : str
        The benchmark; ``figures/NAME.py`` has a function ``draw(values)``.
    values : Mapping
        What the benchmark printed with ``--json``.
    file : Path
        The PNG to write.
    """
    module = import_module(f"integration_tests.benchmarks.figures.{name}")
    save(module.draw(values), file)
