"""Time of a step's fusion over that of log_softmax of the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from integration_tests.benchmarks.plotting import grouped_bars, new_figure, reference


def draw(values: Mapping[str, Any]) -> Figure:
    """Return the figure."""
    figure, (axes,) = new_figure()
    cases = values["cases"]
    groups = list(dict.fromkeys((case["vocabulary"], case["rows"]) for case in cases))
    ratios = {(case["vocabulary"], case["rows"], case["k"]): case["ratio"] for case in cases}
    grouped_bars(
        axes,
        [f"{rows} row{'s' * (rows > 1)}\n{vocabulary:,}" for vocabulary, rows in groups],
        {
            f"K = {k:,}": [ratios[(*group, k)] for group in groups]
            for k in dict.fromkeys(case["k"] for case in cases)
        },
    )
    reference(axes, values["aim"], "aim at 8 and 32 rows")
    axes.set_ylabel("fusion over log_softmax")
    return figure
