"""The style of all figures: legible on a phone and in black and white, with reproducible bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes as Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Figure

from integration_tests.benchmarks.cli import Values as Values

#: Inches. The site shows a figure as wide as the window: at 375 px this leaves text of 9 pt or so.
SIZE = (7.0, 4.0)

#: Colours of Okabe and Ito, which colour-blind readers tell apart; their greys differ, too.
COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#000000"),
    "#F0E442",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "h")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo", "--", "**")
#: More groups than that have their names upright.
MOST_LEVEL_LABELS = 7


def new_figure(
    columns: int = 1, *, rows: int = 1, size: tuple[float, float] = SIZE
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure and its axes, row by row."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for each in axes.flat:
        each.grid(visible=True, axis="y", alpha=0.3)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    return figure, list(axes.flat)


def series_style(at: int) -> dict[str, Any]:
    return {"color": COLOURS[at % len(COLOURS)], "marker": MARKERS[at % len(MARKERS)]}


def grouped_bars(
    axes: Axes, groups: Sequence[str], series: Mapping[str, Sequence[float]], *, legend: bool = True
) -> None:
    """Draw bars of several series side by side, one cluster of bars per group."""
    width = 0.8 / len(series)
    for at, (name, heights) in enumerate(series.items()):
        places = [index + (at - (len(series) - 1) / 2) * width for index in range(len(groups))]
        style: dict[str, Any] = {
            "color": COLOURS[at % len(COLOURS)],
            "hatch": HATCHES[at % len(HATCHES)],
        }
        axes.bar(places, heights, width, label=name, edgecolor="white", linewidth=0.5, **style)
    many = len(groups) > MOST_LEVEL_LABELS
    axes.set_xticks(range(len(groups)), groups, rotation=90 if many else 0)
    if legend:
        axes.legend(fontsize=9)


def lines(axes: Axes, xs: Sequence[float], series: Mapping[str, Sequence[float]]) -> None:
    for at, (name, ys) in enumerate(series.items()):
        axes.plot(xs, ys, label=name, **series_style(at))
    axes.legend(fontsize=9)


def reference(axes: Axes, height: float, text: str) -> None:
    """Draw a dashed line at a target or a limit."""
    axes.axhline(height, color="black", linestyle="--", linewidth=1)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    axes.annotate(text, (1, height), fontsize=9, bbox=box, **place)


def save(figure: Figure, file: Path) -> None:
    """Write a figure as PNG, without the version of what wrote it."""
    figure.savefig(file, dpi=110, metadata={"Software": None})
