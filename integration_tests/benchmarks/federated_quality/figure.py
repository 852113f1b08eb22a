"""Held-out loss over the level, and over the time, one line per method."""

from typing import Any

from integration_tests.benchmarks.plotting import Figure, Values, new_figure, series_style

_SHIFT = 0.01


def draw(values: Values) -> Figure:
    curves = _curves(values)
    figure, axes = new_figure(2, size=(7.0, 5.5)) if curves else new_figure()
    levels = sorted(values["levels"], key=float)
    names = list(dict.fromkeys(name for level in levels for name in values["levels"][level]))
    methods = list(dict.fromkeys(name.partition(":")[0] for name in names))

    def style(name: str) -> dict[str, Any]:
        method, _, way = name.partition(":")
        return {
            **series_style(methods.index(method) if method in methods else len(methods)),
            "linestyle": "--" if way else "-",
            "linewidth": 2.5 if name == "floe" else 1.2,
        }

    for at, name in enumerate(names):
        own = [level for level in levels if name in values["levels"][level]]
        found = [values["levels"][level][name] for level in own]
        # Side by side, so that bars of the spread do not hide each other.
        places = [float(level) + _SHIFT * (at - (len(names) - 1) / 2) for level in own]
        axes[0].errorbar(
            places,
            [each["loss_mean"] for each in found],
            yerr=[each["loss_std"] for each in found],
            label=name,
            capsize=3,
            **style(name),
        )
    axes[0].set_xticks([float(level) for level in levels], levels)
    axes[0].set_xlabel(
        "level: 0 is one task per device, 1 all devices alike" if not curves else "level"
    )
    axes[0].set_ylabel("held-out loss, nats per token")
    if not curves:
        axes[0].legend(fontsize=9, ncols=2)
        return figure
    for name, points in curves.items():
        axes[1].plot(*zip(*points, strict=True), label=name, **style(name))
    axes[1].set_xlabel(f"virtual seconds, level {_curve_level(values)}")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8, ncols=3
    )
    return figure


def _curve_level(values: Values) -> str | None:
    """Return the first level that was measured with less time."""
    return next(
        (level for levels in values.get("budget_curve", {}).values() for level in levels), None
    )


def _curves(values: Values) -> dict[str, list[tuple[float, float]]]:
    """Return method -> seconds and losses, over the seeds that were measured with less time."""
    level, found = _curve_level(values), dict[str, list[tuple[float, float]]]()
    if level is None:
        return {}
    seeds: dict[str, list[str]] = {}
    for budget, levels in values["budget_curve"].items():
        for name, figures in levels.get(level, {}).items():
            found.setdefault(name, []).append((float(budget), figures["loss_mean"]))
            seeds[name] = list(figures["losses"])
    for name, points in found.items():
        whole = values["levels"].get(level, {}).get(name)
        if whole is not None:
            losses = [whole["losses"][seed] for seed in seeds[name]]
            points.append((float(values["protocol"]["budget"]), sum(losses) / len(losses)))
        points.sort()
    return found
