"""The report's page: its headline, figures and tables, and writing it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from floe_plugins import files
from floe_plugins.errors import FloeError
from flower_strategy.report.data import figure_data
from flower_strategy.report.figures import (
    communication_figure,
    energy_figure,
    latency_figure,
    loss_figure,
    total_figure,
)
from flower_strategy.report.heatmaps import embedding_figure, layers_figure, ranks_figure
from flower_strategy.report.run import ShownRound, ShownRun, number, read_run
from flower_strategy.report.text import bytes_text, number_text, seconds_text

REPORT_FILE = "report.html"
_ASSETS = Path(__file__).with_name("assets")
_FIGURES = {
    "loss": loss_figure,
    "latency": latency_figure,
    "ranks": ranks_figure,
    "embedding": embedding_figure,
    "communication": communication_figure,
    "communication-total": total_figure,
    "energy": energy_figure,
    "layers": layers_figure,
}
_NOT_SETTINGS = ("format", "clusters", "devices")


class ReportError(FloeError):
    """The page cannot be written."""


def write_report(folder: Path | str, output: Path | str | None = None) -> dict[str, Any]:
    """Write a run's page.

    Parameters
    ----------
    folder : Path or str
        The run's output folder.
    output : Path or str, optional
        The page; ``report.html`` in the run's folder by default.

    Returns
    -------
    dict[str, Any]
        ``page`` (its path), ``headline``, ``settings``, ``figures``, ``refused``, ``notes``.

    Raises
    ------
    flower_strategy.run_folder.RunFolderError
        The folder holds no run that can be read.
    ReportError
        The page cannot be written.
    """
    run = read_run(folder)
    data = figure_data(run)
    path = Path(output) if output is not None else Path(folder) / REPORT_FILE
    try:
        files.write_file(path, page(run, data))
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error.strerror}.") from error
    return {
        "page": str(path),
        "headline": headline(run),
        "settings": _settings(run.manifest),
        "figures": data,
        "refused": [vars(refusal) for entry in run.rounds for refusal in entry.refused],
        "notes": [
            {"round": entry.number, "note": note} for entry in run.rounds for note in entry.notes
        ],
    }


def page(run: ShownRun, data: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page as HTML that needs nothing beside itself.

    The policy in its head lets no script run but its own, and lets nothing be fetched: a text from
    a device that escaped the escaping would still be only a text.
    """
    scripts = [get_plotlyjs(), (_ASSETS / "report.js").read_text("utf-8")]
    digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts)
    environment = Environment(
        loader=FileSystemLoader(_ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number_text, "seconds": seconds_text, "bytes": bytes_text}
    return environment.get_template("report.html.j2").render(
        run=run,
        data=data,
        summary=headline(run),
        hashes=" ".join(f"'sha256-{digest}'" for digest in digests),
        style=Markup((_ASSETS / "report.css").read_text("utf-8")),
        scripts=[Markup(script) for script in scripts],
        drawings={
            name: drawing.update_layout(template=None).to_plotly_json()
            for name, draw in _FIGURES.items()
            if (drawing := draw(data[name.removesuffix("-total")])) is not None
        },
        clusters=[_cluster(run, entry) for entry in run.manifest["clusters"]],
        notes=[(entry.number, note) for entry in run.rounds for note in entry.notes],
        refused=[
            (refusal.round, run.short(refusal.node), refusal.stage, refusal.reason)
            for entry in run.rounds
            for refusal in entry.refused
        ],
        left_out=[
            (device.short, device.device, device.cluster, device.reason)
            for device in run.devices
            if device.rank is None
        ],
        settings=list(_flat(_settings(run.manifest))),
    )


def _cluster(run: ShownRun, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a cluster's name, adapter folder, losses, and number and names of its devices."""
    members = entry.get("members")
    nodes = [run.short(str(node)) for node in members] if isinstance(members, list) else []
    before, after = (number_text(number(entry.get(f"loss_{when}"))) for when in ("before", "after"))
    names = (str(entry.get(key, "")) for key in ("name", "adapter"))
    return (*names, f"{before} → {after}", str(len(nodes)), ", ".join(nodes))


def headline(run: ShownRun) -> dict[str, Any]:
    """Return the figures that sum a run up; None where the run does not say."""
    before = _loss(run.rounds[0]) if run.rounds else None
    # The last round of a run may have ended without devices.
    later = [loss for entry in run.rounds[1:] if (loss := _loss(entry)) is not None]
    devices = [done for entry in run.rounds for done in entry.devices.values()]
    embedding = run.manifest.get("embedding")
    seconds = [entry.device_seconds for entry in run.rounds if entry.device_seconds is not None]
    return {
        "rounds": sum(entry.number > 0 for entry in run.rounds),
        "devices": len(run.devices),
        "left_out": sum(device.rank is None for device in run.devices),
        "clusters": len(run.manifest["clusters"]),
        "loss_before": before,
        "loss_after": later[-1] if later else None,
        "bytes_down": sum(done.bytes_down for done in devices),
        "bytes_up": sum(done.bytes_up for done in devices),
        "refused": sum(len(entry.refused) for entry in run.rounds),
        "embedding_noise": number(embedding.get("noise")) if isinstance(embedding, dict) else None,
        "server_seconds": sum(entry.seconds or 0.0 for entry in run.rounds),
        "device_seconds": sum(seconds) if seconds else None,
    }


def _settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the manifest holds beside clusters and devices."""
    return {key: value for key, value in manifest.items() if key not in _NOT_SETTINGS}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", "–" if value is None else str(value)


def _loss(entry: ShownRound) -> float | None:
    """Return a round's held-out loss over all devices, weighted by tokens."""
    measured = [
        (done.held_out_loss, done.held_out_tokens)
        for done in entry.devices.values()
        if done.held_out_loss is not None
    ]
    total = sum(tokens for _, tokens in measured)
    return sum(loss * tokens for loss, tokens in measured) / total if total else None
