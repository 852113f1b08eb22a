"""Writes the report's page: headline, figures and tables."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from floe_plugins import files
from floe_plugins.errors import FloeError
from flower_strategy.report.data import ShownRound, ShownRun, figure_data, number, read_run
from flower_strategy.report.figures import figures

REPORT_FILE = "report.html"
# Keys of the manifest that have their own tables.
_OTHER_KEYS = ("format", "clusters", "devices")
_ASSETS = Path(__file__).with_name("assets")
_bundle = cache(vl_convert.javascript_bundle)  # takes seconds


class ReportError(FloeError):
    """The page cannot be written."""


def write_report(folder: Path | str, output: Path | str | None = None) -> dict[str, Any]:
    """Write a run's page, by default `REPORT_FILE` in its folder; return its path and content.

    Raises
    ------
    flower_strategy.run_folder.RunFolderError
        The folder holds no run that can be read.
    ReportError
        The page cannot be written.
    """
    run = read_run(folder)
    path = Path(output) if output is not None else Path(folder) / REPORT_FILE
    content = {
        "headline": _headline(run),
        "settings": {k: v for k, v in run.manifest.items() if k not in _OTHER_KEYS},
        "figures": figure_data(run),
        "refused": [refusal for entry in run.rounds for refusal in entry.refused],
        "notes": [{"round": entry.number, "note": n} for entry in run.rounds for n in entry.notes],
    }
    try:
        files.write_file(path, _page(run, content))
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error.strerror}.") from error
    return {"page": str(path), **content}


def _page(run: ShownRun, content: Mapping[str, Any]) -> str:
    """Return the page as self-contained HTML.

    Its Content-Security-Policy allows only its own scripts and no requests: a device's text that
    evaded the escaping would still only be shown.
    """
    scripts = [_bundle("window.vegaEmbed = vegaEmbed"), (_ASSETS / "report.js").read_text("utf-8")]
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts]
    environment = Environment(
        loader=FileSystemLoader(_ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number_text, "seconds": seconds_text, "bytes": bytes_text}
    return environment.get_template("report.html.j2").render(
        content,
        run=run,
        hashes=" ".join(f"'sha256-{digest}'" for digest in digests),
        style=Markup((_ASSETS / "report.css").read_text("utf-8")),
        scripts=[Markup(script) for script in scripts],
        drawings=figures(content["figures"], run.clusters),
        clusters=[_cluster(run, entry) for entry in run.manifest["clusters"]],
        lines=list(_flat(content["settings"])),
        times=[_time_row(one) for one in content["figures"]["time"]["devices"]],
    )


def _cluster(run: ShownRun, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the table of clusters."""
    members = entry.get("members")
    nodes = [run.short(str(node)) for node in members] if isinstance(members, list) else []
    before, after = (number_text(number(entry.get(f"loss_{when}"))) for when in ("before", "after"))
    counted = {"loss": f"{before} → {after}", "devices": len(nodes), "members": ", ".join(nodes)}
    return {"name": "", "adapter": "", **entry, **counted}


def _time_row(device: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the table of the devices' time."""
    seconds = {key: seconds_text(device[key]) for key in ("training", "transport", "idle")}
    return {**device, **seconds, "idle_share": f"{device['idle_share']:.0%}"}


def _headline(run: ShownRun) -> dict[str, Any]:
    """Return the figures that summarise a run; None where unknown."""
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
        "loss_before": _loss(run.rounds[0]) if run.rounds else None,
        "loss_after": later[-1] if later else None,
        "bytes_down": sum(done.bytes_down for done in devices),
        "bytes_up": sum(done.bytes_up for done in devices),
        "refused": sum(len(entry.refused) for entry in run.rounds),
        "embedding_noise": number(embedding.get("noise")) if isinstance(embedding, dict) else None,
        "server_seconds": sum(entry.seconds or 0.0 for entry in run.rounds),
        "device_seconds": sum(seconds) if seconds else None,
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            listed = ", ".join(map(str, value)) if isinstance(value, list) else value
            yield f"{prefix}{key}", "–" if listed is None else listed


def _loss(entry: ShownRound) -> float | None:
    """Return a round's held-out loss over all devices, weighted by tokens."""
    measured = [done for done in entry.devices.values() if done.held_out_loss is not None]
    total = sum(done.held_out_tokens for done in measured)
    weighted = sum((done.held_out_loss or 0.0) * done.held_out_tokens for done in measured)
    return weighted / total if total else None


def number_text(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` significant digits, or a dash for None."""
    if value is None:
        return "–"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}".replace("-", "−").replace("e−0", "e−").replace("e+0", "e")
    places = 0 if value == 0 else max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def seconds_text(value: float) -> str:
    """Return a duration."""
    if value >= 7200:
        return f"{number_text(value / 3600)} h"
    if value >= 120:
        return f"{number_text(value / 60)} min"
    return f"{number_text(value)} s" if value >= 0.1 or value == 0 else f"{value * 1e3:.3g} ms"


def bytes_text(value: float) -> str:
    """Return a number of bytes, in units of 1,000."""
    unit = 0
    while value >= 999.5 and unit < 4:
        value, unit = value / 1000, unit + 1
    return f"{number_text(value)} {('B', 'kB', 'MB', 'GB', 'TB')[unit]}"
