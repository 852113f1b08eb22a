"""Seconds of a round and of the server's own part, Floe beside FedAvg."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from integration_tests.benchmarks.plotting import grouped_bars, new_figure


def draw(values: Mapping[str, Any]) -> Figure:
    """Return the figure."""
    figure, (whole, own) = new_figure(2)
    for axes, title, keys in (
        (whole, "a whole round", ("round_s", "fedavg_round_s")),
        (own, "the server's own part", ("server_s", "fedavg_server_s")),
    ):
        floe, fedavg = (values[key] for key in keys)
        grouped_bars(axes, ["Floe", "FedAvg"], {title: [floe, fedavg]}, legend=False)
        axes.set_title(title, fontsize=10)
        axes.set_ylabel("seconds")
    return figure
