"""The first half: a federated run on the embedded tasks, and its result."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flower_strategy import AdapterChoice, adapter_for_text, load_history, load_manifest
from flower_strategy.adapter_choice import form_of
from flower_strategy.profile import Form
from integration_tests.demo.prompts import Prompt
from integration_tests.harness.flower_runs import run_flower_app

APP = Path(__file__).resolve().parents[2]
DEVICES = 6

#: Where in its folder a run leaves what it exports.
RUN = "run"

#: Irrelevant messages of libraries between Flower's lines.
_NOISE = ("Loading weights", "ClientAppActor", "FutureWarning", "warnings.warn")

#: Flower's own prefix in front of every line: level, and colours.
_PREFIX = re.compile(r"^(\x1b\[\d+m)*\w+\s*(\x1b\[0m)?\s*: {0,6}")


class DemoError(RuntimeError):
    """The demonstration cannot continue; the message says why."""


@dataclass(frozen=True)
class Federation:
    """A finished run: its folder, manifest and history, see `flower_strategy.server.export`."""

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

    @property
    def forms(self) -> dict[str, Form]:
        """The form that each cluster's adapter was trained in."""
        return {cluster["name"]: form_of(cluster) for cluster in self.manifest["clusters"]}

    def adapters_for(self, prompts: tuple[Prompt, ...]) -> dict[str, AdapterChoice]:
        """Choose the cluster adapter whose task is closest to each prompt."""
        return {prompt.name: adapter_for_text(self.folder, prompt.text) for prompt in prompts}


def federate(
    folder: Path,
    *,
    config: Mapping[str, str | int | float | bool],
    on_line: Callable[[str], None],
) -> Federation:
    """Run Flower's simulation of six devices in three classes and read what it left.

    The adapters are trained on plain text unless the configuration says otherwise: the cloud's
    model has no chat template, so both models read plain prompts.

    Parameters
    ----------
    folder : Path
        Gets ``run`` and Flower's own files.
    config : Mapping
        Run configuration on top of the app's defaults.
    on_line : Callable[[str], None]
        Called with every line that Flower prints.

    Raises
    ------
    DemoError
        If the run does not complete; quotes the end of its output.
    """
    output = folder / RUN
    result = run_flower_app(
        APP,
        {"template": "none", **config, "output": str(output)},
        DEVICES,
        folder / "flower",
        on_line,
    )
    if not result.ok:
        end = "\n".join(result.lines[-15:])
        raise DemoError(f"The federated run ended as {result.status!r}:\n{end}")
    return Federation.read(output)


def readable(line: str) -> str:
    """Return a readable line of Flower's output; empty for irrelevant lines."""
    if any(noise in line for noise in _NOISE):
        return ""
    return _PREFIX.sub("", line).rstrip().expandtabs(2)
