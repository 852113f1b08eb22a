"""The federated run whose adapters are served, new or reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.answers.tasks import Task, check_disjoint, write_training
from integration_tests.demo import federation as demo
from integration_tests.demo.federation import DEVICES, RUN, Federation

_DATA = "data"


def federation_in(folder: Path, tasks: Sequence[Task]) -> Federation:
    """Read the run that an earlier call left in its ``--output``, if nothing asked was trained on.

    Raises
    ------
    ConfigError
        There is no run, it was trained for other tasks, or its training files hold a prompt that
        is asked.
    """
    check_disjoint(tasks, folder / _DATA)
    if not (folder / RUN / "manifest.json").is_file():
        raise ConfigError(
            f"There is no finished run in {str(folder / RUN)!r}; give --run the --output folder "
            "of an earlier call."
        )
    return Federation.read(folder / RUN)


def federate(
    folder: Path, tasks: Sequence[Task], *, config: Mapping[str, str | int | float | bool]
) -> Federation:
    """Train the SLM for the in-task tasks on six simulated devices.

    Parameters
    ----------
    folder : Path
        Gets ``data``, ``run`` and Flower's own files.
    tasks : Sequence[Task]
    config : Mapping
        Run configuration on top of the app's defaults.

    Raises
    ------
    DemoError
        The run did not complete; quotes the end of its output.
    """
    write_training(tasks, folder / _DATA)
    check_disjoint(tasks, folder / _DATA)
    cli.note(f"federated run: {DEVICES} devices")
    wanted = {**config, "data": str(folder / _DATA)}
    return demo.federate(folder, config=wanted, on_line=_note)


def described(federation: Federation) -> list[dict[str, Any]]:
    """Return the clusters as JSON values: devices' tasks and ranks, held-out loss."""
    devices = {device["node"]: device for device in federation.manifest["devices"]}
    return [
        {
            "name": cluster["name"],
            "tasks": sorted({devices[node]["label"] for node in cluster["members"]}),
            "ranks": [devices[node]["rank"] for node in cluster["members"]],
            "loss_before": cluster["loss_before"],
            "loss_after": cluster["loss_after"],
        }
        for cluster in federation.manifest["clusters"]
    ]


def _note(line: str) -> None:
    if "[ROUND " in line:
        cli.note(f"federated run: round {line.rsplit('[ROUND ', 1)[1].rstrip(']')}")
