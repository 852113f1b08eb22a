"""Mean and spread over seeds, and the table that goes into the documentation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError
from integration_tests.benchmarks.federated_quality.runner import Record

Levels = dict[str, dict[str, dict[str, Any]]]
"""Level -> method -> figures."""

BEGIN, END = "<!-- federated_quality: begin -->", "<!-- federated_quality: end -->"
_REFERENCE = "floe"


def summarise(records: Sequence[Record]) -> Levels:
    """Return the figures by level and method, in the records' order of methods.

    Of every method: ``loss_mean`` and ``loss_std`` (sample standard deviation over seeds, 0 for
    one seed) of the mean held-out loss over devices, nats per response token; ``losses`` by seed;
    ``gap_mean``, ``gap_std``: the same of the loss less Floe's with the same seed, where Floe was
    run; means of ``rounds``, ``steps``, ``virtual_seconds``, ``megabytes_up``, ``megabytes_down``.
    Floe's ``clusters`` is their number by seed.
    """
    levels: Levels = {}
    for record in records:
        level = levels.setdefault(f"{record['level']:g}", {})
        level.setdefault(record["method"], {"records": []})["records"].append(record)
    return {
        level: {
            method: _figures(found["records"], methods.get(_REFERENCE, {"records": []})["records"])
            for method, found in methods.items()
        }
        for level, methods in levels.items()
    }


def _figures(records: Sequence[Record], reference: Sequence[Record]) -> dict[str, Any]:
    losses = {record["seed"]: record["loss"] for record in records}
    base = {record["seed"]: record["loss"] for record in reference}
    gaps = [loss - base[seed] for seed, loss in losses.items() if seed in base]
    figures: dict[str, Any] = {
        "loss_mean": statistics.fmean(losses.values()),
        "loss_std": _spread(list(losses.values())),
        "losses": {str(seed): loss for seed, loss in sorted(losses.items())},
    }
    if gaps:
        figures |= {"gap_mean": statistics.fmean(gaps), "gap_std": _spread(gaps)}
    for key in ("rounds", "steps", "virtual_seconds", "megabytes_up", "megabytes_down"):
        figures[key] = statistics.fmean(record[key] for record in records)
    if "clusters" in records[0]:
        figures["clusters"] = {str(record["seed"]): len(record["clusters"]) for record in records}
    return figures


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


HEADER = ("level", "method", "held-out loss", "less floe's", "rounds", "steps", "MB up", "MB down")


def rows(levels: Levels) -> list[list[str]]:
    """Return the table, one row per level and method, lowest loss first."""
    found = []
    for level, methods in levels.items():
        for method, figures in sorted(methods.items(), key=lambda item: item[1]["loss_mean"]):
            gap = ""
            if "gap_mean" in figures and method != _REFERENCE:
                gap = f"{figures['gap_mean']:+.3f} ± {figures['gap_std']:.3f}"
            if method == _REFERENCE:
                method += f" ({_clusters(figures['clusters'])})"
            found.append(
                [
                    level,
                    method,
                    f"{figures['loss_mean']:.3f} ± {figures['loss_std']:.3f}",
                    gap,
                    *(f"{figures[key]:g}" for key in ("rounds", "steps")),
                    f"{figures['megabytes_up']:.0f}",
                    f"{figures['megabytes_down']:.0f}",
                ]
            )
    return found


def _clusters(by_seed: Mapping[str, int]) -> str:
    numbers = sorted(set(by_seed.values()))
    plural = "" if numbers == [1] else "s"
    return f"{' or '.join(map(str, numbers))} cluster{plural}"


def write_markdown(path: Path, levels: Levels, remarks: Sequence[str]) -> None:
    """Replace what stands between the two markers of a page by the table.

    Raises
    ------
    ConfigError
        The page does not exist or lacks a marker.
    """
    text = path.read_text("utf-8") if path.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"--markdown {path} must be a page with the lines {BEGIN} and {END}.")
    lines = [_line(HEADER), _line(["---"] * len(HEADER)), *map(_line, rows(levels))]
    body = "\n".join([*lines, "", *remarks])
    path.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
