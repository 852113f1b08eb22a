"""Mean and spread over seeds: the table, and what it says."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from integration_tests.benchmarks.federated_quality.measure import Record

Levels = dict[str, dict[str, dict[str, Any]]]
"""Level -> method -> figures."""

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


def conclusions(levels: Levels) -> list[str]:
    """Return what the losses say, a sentence for each level.

    A method is above or below Floe where its mean difference, of runs with equal seeds, exceeds its
    standard deviation over the seeds; with one seed nothing is said of that.
    """
    found = []
    for level, methods in levels.items():
        reference = methods.get(_REFERENCE)
        if reference is None:
            continue
        order = sorted(methods, key=lambda name: float(methods[name]["loss_mean"]))
        place = order.index(_REFERENCE) + 1
        said = (
            f"Level {level}: Floe makes {_clusters(reference['clusters'])} and is number {place} "
            f"of {len(methods)} by held-out loss"
        )
        others = {name: methods[name] for name in order if name != _REFERENCE}
        if len(reference["losses"]) > 1:
            better = [n for n, one in others.items() if one["gap_mean"] > one["gap_std"]]
            worse = [n for n, one in others.items() if -one["gap_mean"] > one["gap_std"]]
            alike = [n for n in others if n not in (*better, *worse)]
            said += (
                f"; its loss is lower than that of {_listed(better)}, higher than that of "
                f"{_listed(worse)}, and within one standard deviation of {_listed(alike)}"
            )
        if untrained := methods.get("untrained"):
            gained = untrained["loss_mean"] - reference["loss_mean"]
            said += f"; it is {gained:.3f} nats below the untrained model"
        found.append(f"{said}.")
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
