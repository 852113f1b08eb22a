"""The first half: a federated run on the embedded tasks, and what came of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flower_strategy import adapter_for_text, load_history, load_manifest
from integration_tests.demo.progress import Progress
from integration_tests.demo.prompts import Prompt
from integration_tests.flower_runs import run_flower_app

APP = Path(__file__).resolve().parents[2]
DEVICES = 6

#: What libraries say between Flower's lines, and nobody needs to read.
_NOISE = ("Loading weights", "ClientAppActor", "FutureWarning", "warnings.warn")

#: Flower's own prefix in front of every line: level, and colours.
_PREFIX = re.compile(r"^(\x1b\[\d+m)*\w+\s*(\x1b\[0m)?\s*: {0,6}")


class DemoError(RuntimeError):
    """The demonstration cannot go on; says why."""


@dataclass(frozen=True)
class Federation:
    """A finished run: its folder, manifest and history, as `flower_strategy.export` writes them."""

    folder: Path
    manifest: dict[str, Any]
    history: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Federation:
        """Read a finished run."""
        return cls(folder, load_manifest(folder), load_history(folder))

    @property
    def adapters(self) -> dict[str, Path]:
        """Folder of each cluster's adapter."""
        clusters = self.manifest["clusters"]
        return {cluster["name"]: self.folder / cluster["adapter"] for cluster in clusters}

    def adapters_for(self, prompts: tuple[Prompt, ...]) -> dict[str, str]:
        """Name the cluster adapter whose task is closest to each prompt."""
        return {prompt.name: adapter_for_text(self.folder, prompt.text).name for prompt in prompts}


def federate(folder: Path, *, rounds: int, progress: Progress) -> Federation:
    """Run Flower's simulation of six devices in three classes and read what it left in `folder`.

    Raises
    ------
    DemoError
        If the run does not complete; quotes the end of its output.
    """
    output = folder / "run"

    def show(line: str) -> None:
        text = _PREFIX.sub("", line).rstrip()
        if text and not any(noise in line for noise in _NOISE):
            progress.note(text.expandtabs(2))

    result = run_flower_app(
        APP,
        {"output": str(output), "rounds": rounds},
        DEVICES,
        folder / "flower",
        show,
    )
    if not result.ok:
        end = "\n".join(result.lines[-15:])
        raise DemoError(f"The federated run ended as {result.status!r}:\n{end}")
    return Federation.read(output)
