"""From marks and costs to the values, the table and the remarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import binomtest  # type: ignore[import-untyped]

from integration_tests.benchmarks.answers.servers import FLOE, LLM, SLM, Item
from integration_tests.benchmarks.answers.systems import HINDSIGHT, ROUTER, SYSTEMS, Mark
from integration_tests.benchmarks.answers.tasks import Task

Marks = Mapping[str, Mapping[str, Mark]]
"""System -> item's key -> mark."""

_RESAMPLES = 2_000

HEADER = (
    "system",
    "task",
    "n",
    "exact match",
    "95 % interval",
    "token F1",
    "ms per answer",
    "CPU-s per answer",
    "bytes that left",
)


def cells(tasks: Sequence[Task], items: Sequence[Item], marks: Marks) -> list[dict[str, Any]]:
    """Return the figures of every system on every task."""
    found = []
    for task in tasks:
        keys = [item.key for item in items if item.task.name == task.name]
        for system in SYSTEMS:
            own = [marks[system][key] for key in keys]
            found.append(
                {"system": system, "task": task.name, "in_task": task.in_task, **_figures(own)}
            )
    return found


def totals(items: Sequence[Item], marks: Marks) -> list[dict[str, Any]]:
    """Return the figures of every system over all items."""
    return [
        {"system": system, **_figures([marks[system][item.key] for item in items])}
        for system in SYSTEMS
    ]


def _figures(own: Sequence[Mark]) -> dict[str, Any]:
    right = sum(each.right for each in own)
    # Wilson's interval: it stays within 0 and 1, and has a width where all are wrong.
    interval = binomtest(right, len(own)).proportion_ci(method="wilson")
    return {
        "n": len(own),
        "right": right,
        "exact_match": right / len(own),
        "low": float(interval.low),
        "high": float(interval.high),
        "f1": fmean(each.f1 for each in own),
    }


def means(figures: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return group -> system -> mean over tasks; a group is ``in-task`` or ``out-of-task``."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for group, in_task in (("in-task", True), ("out-of-task", False)):
        own = [figure for figure in figures if figure["in_task"] is in_task]
        if own:
            found[group] = {
                system: {
                    key: fmean(each[key] for each in own if each["system"] == system)
                    for key in ("exact_match", "f1")
                }
                for system in SYSTEMS
            }
    return found


def paired(items: Sequence[Item], marks: Marks, other: str, *, seed: int) -> dict[str, Any]:
    """Compare Floe with another system, item by item.

    Returns
    -------
    dict
        ``floe_only`` and ``other_only``, items that one alone had right; ``p_value`` of the sign
        test on these, two-sided; ``f1_difference``, Floe's mean less the other's, and its 95 %
        interval ``f1_low`` to ``f1_high`` by a bootstrap over items.
    """
    pairs = [(marks[FLOE][item.key], marks[other][item.key]) for item in items]
    floe_only = sum(mine.right and not theirs.right for mine, theirs in pairs)
    other_only = sum(theirs.right and not mine.right for mine, theirs in pairs)
    apart = floe_only + other_only
    differences = np.array([mine.f1 - theirs.f1 for mine, theirs in pairs])
    rows = np.random.default_rng(seed).integers(len(pairs), size=(_RESAMPLES, len(pairs)))
    low, high = np.quantile(differences[rows].mean(axis=1), (0.025, 0.975))
    return {
        "other": other,
        "items": len(pairs),
        "floe_only": floe_only,
        "other_only": other_only,
        "p_value": float(binomtest(floe_only, apart).pvalue) if apart else 1.0,
        "f1_difference": float(differences.mean()),
        "f1_low": float(low),
        "f1_high": float(high),
    }


def rows(values: Mapping[str, Any]) -> list[list[Any]]:
    """Return the rows of the table, in the order of `HEADER`.

    What an answer costs is known over all tasks only: of each, few items are asked alone.
    """
    found = [
        _row(figure, f"{figure['task']} ({_group(figure)})", None) for figure in values["cells"]
    ]
    costs = values["costs"]
    return found + [_row(each, "all", costs.get(each["system"])) for each in values["totals"]]


def _row(figure: Mapping[str, Any], task: str, cost: Mapping[str, Any] | None) -> list[Any]:
    return [
        figure["system"],
        task,
        figure["n"],
        figure["exact_match"],
        f"{figure['low']:.2f} to {figure['high']:.2f}",
        figure["f1"],
        *(
            [f"{cost['latency_ms']:.0f}", cost["cpu_seconds"], f"{cost['bytes_left']:.0f}"]
            if cost
            else ["-", "-", "-"]
        ),
    ]


def remarks(values: Mapping[str, Any]) -> list[str]:
    """Return what the figures say, in sentences."""
    figures = {(one["task"], one["system"]): one for one in values["cells"]}
    names = [task["name"] for task in values["tasks"]]
    found = []
    for key, word in (("exact_match", "exact match"), ("f1", "token F1")):
        places: dict[str, list[str]] = {}
        for name in names:
            floe, slm, llm = (figures[name, system][key] for system in (FLOE, SLM, LLM))
            places.setdefault(_place(floe, slm, llm), []).append(name)
        told = "; ".join(f"{place} on {', '.join(tasks)}" for place, tasks in places.items())
        found.append(f"By {word}, Floe against SLM and LLM: {told}.")
    for group, systems in values["means"].items():
        told = ", ".join(
            f"{system} {mean['exact_match']:.2f} ({mean['f1']:.2f})"
            for system, mean in systems.items()
        )
        found.append(f"Mean exact match (token F1) {group}: {told}.")
    found += [_compared(each) for each in values["paired"]]
    found += _of_choosers(values)
    found += _of_costs(values)
    return found


def _group(figure: Mapping[str, Any]) -> str:
    return "in" if figure["in_task"] else "out"


def _place(floe: float, slm: float, llm: float) -> str:
    if floe > max(slm, llm):
        return "above both"
    if floe < min(slm, llm):
        return "below both"
    return "level with the better" if floe == max(slm, llm) else "between"


def _compared(pair: Mapping[str, Any]) -> str:
    return (
        f"Against {pair['other']}, over {pair['items']} items: Floe alone right on "
        f"{pair['floe_only']}, {pair['other']} alone on {pair['other_only']} (sign test, "
        f"p = {pair['p_value']:.2g}); token F1 {pair['f1_difference']:+.3f}, 95 % interval "
        f"{pair['f1_low']:+.3f} to {pair['f1_high']:+.3f}."
    )


def _of_choosers(values: Mapping[str, Any]) -> list[str]:
    shares = ", ".join(
        f"{task['name']} {task['router_llm_share']:.0%}/{task['cascade_llm_share']:.0%}"
        for task in values["tasks"]
    )
    threshold = values["cascade_threshold"]
    told = "none" if threshold is None else f"{threshold:.3f} nats per token"
    fusion = values["fusion"]
    return [
        f"Share of prompts that {ROUTER}/cascade gave to the LLM: {shares}; the cascade's "
        f"threshold, fitted on {values['fitted_items']} other items: {told}.",
        f"{HINDSIGHT} takes the better of SLM and LLM per prompt, which no router can know.",
        f"Fused tokens: {fusion['fused_share']:.1%}; late calls: {fusion['late']} of "
        f"{fusion['tokens']}; mean weight of the SLM: {fusion['expert_weight']:.2f}.",
    ]


def _of_costs(values: Mapping[str, Any]) -> list[str]:
    floe, llm = (values["costs"][system] for system in (FLOE, LLM))
    idle = ", ".join(f"{name} {share:.2f}" for name, share in values["idle_cpu"].items())
    energy = (
        "Joules per answer (all packages, idle power included): "
        + ", ".join(f"{name} {cost['joules']:.1f}" for name, cost in values["costs"].items())
        if floe["joules"] is not None
        else "RAPL cannot be read here, so energy is told in processor seconds alone"
    )
    return [
        f"One request at a time, {values['timed_items']} items: an answer of Floe takes "
        f"{floe['latency_ms'] / llm['latency_ms']:.1f} times the LLM's seconds and "
        f"{floe['cpu_seconds'] / llm['cpu_seconds']:.1f} times its processor seconds; "
        f"{floe['bytes_left'] / llm['bytes_left']:.0f} times the bytes leave the device.",
        f"Processor seconds per second that the idle servers take: {idle}.",
        energy + ".",
    ]
