"""Tokens per second of the host alone, of sequential calls, and of Floe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from integration_tests.benchmarks.plotting import grouped_bars, new_figure


def draw(values: Mapping[str, Any]) -> Figure:
    """Return the figure."""
    figure, (axes,) = new_figure()
    names = {
        "host alone": "host_tokens_per_s",
        "Floe": "floe_tokens_per_s",
        "one call after\nthe other": "sequential_tokens_per_s",
    }
    rates = [values[key] for key in names.values()]
    grouped_bars(axes, list(names), {"rate": rates}, legend=False)
    for place, rate in enumerate(rates):
        axes.text(place, rate, f"{rate:.2f}", ha="center", va="bottom", fontsize=9)
    axes.set_ylabel("tokens per second")
    return figure
