"""The whole page, and writing it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from floe_plugins.errors import FloeError
from flower_strategy.report import tables
from flower_strategy.report.data import figure_data
from flower_strategy.report.figure import Figure
from flower_strategy.report.figures import (
    communication_figures,
    energy_figure,
    latency_figure,
    loss_figure,
)
from flower_strategy.report.heatmaps import embedding_figure, layers_figure, ranks_figure
from flower_strategy.report.run import Run, read_run
from flower_strategy.report.script import SCRIPT
from flower_strategy.report.style import style_sheet
from flower_strategy.report.svg import element, escaped

REPORT_FILE = "report.html"


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
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(page(run, data), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error.strerror}.") from error
    return {
        "page": str(path),
        "headline": tables.headline(run),
        "settings": tables.settings(run.manifest),
        "figures": data,
        "refused": [vars(refusal) for entry in run.rounds for refusal in entry.refused],
        "notes": [
            {"round": entry.number, "note": note} for entry in run.rounds for note in entry.notes
        ],
    }


def page(run: Run, data: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page as HTML that needs nothing beside itself.

    The policy in its head lets no script run but its own, and lets nothing be fetched: a text from
    a device that escaped the escaping would still be only a text.
    """
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    title = f"Floe run: {run.manifest.get('model') or 'unnamed model'}"
    body = element(
        "main",
        element("h1", "Floe run"),
        element("p", escaped(_lead(run)), class_="lead"),
        tables.tiles(tables.headline(run)),
        element(
            "div", *(figure.markup() for figure in figures(run, data)), class_="grid-of-figures"
        ),
        tables.note_table(run),
        tables.cluster_table(run),
        tables.refusal_table(run),
        tables.left_out_table(run),
        tables.setting_table(run.manifest),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # Browsers ask for an icon unless the page names one.
        '<link rel="icon" href="data:,">'
        f"{element('title', escaped(title))}<style>{style_sheet()}</style></head><body>{body}"
        '<div id="tip" role="status" aria-live="polite" hidden></div>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def figures(run: Run, data: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """Return the page's figures in their order."""
    return [
        loss_figure(data["loss"]),
        latency_figure(data["latency"]),
        ranks_figure(data["ranks"], run.clusters),
        embedding_figure(data["embedding"], run.clusters),
        *communication_figures(data["communication"]),
        energy_figure(data["energy"]),
        layers_figure(data["layers"], run.clusters),
    ]


def _lead(run: Run) -> str:
    manifest = run.manifest
    parts = [str(manifest.get("model") or "unnamed model")]
    if manifest.get("rank_policy"):
        parts.append(f"ranks by the policy “{manifest['rank_policy']}”")
    if manifest.get("rank"):
        parts.append(f"adapters exported at rank {manifest['rank']}")
    return ", ".join(parts)
