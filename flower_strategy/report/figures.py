"""The report's figures over rounds and ranks, as Plotly figures.

A figure is None where it has nothing to show. Every trace's ``meta`` holds what the page's script
needs: the number of its colour, and the texts of its tooltips.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plotly import graph_objects as go

from flower_strategy.report.text import bytes_text, number_text, percent_text, seconds_text

_DASHES = ("solid", "dash", "dot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
_MOST_LETTERS = 32
_BYTES = {"tickformat": "~s", "ticksuffix": "B", "rangemode": "tozero"}
INK = -1
"""The colour of what is of no cluster or class."""


def plotly_text(text: str) -> str:
    """Return a text that Plotly draws as it is; it reads markup in labels. Long ones are cut."""
    cut = text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"
    return html.escape(cut, quote=False)


def loss_figure(data: Mapping[str, Any]) -> go.Figure | None:
    """Draw the held-out loss of each cluster."""
    clusters = data["clusters"]

    def tip(name: str, index: int) -> str:
        held_out, trained = (clusters[name][key][index] for key in ("held_out", "train"))
        beside = "" if trained is None else f", training loss {number_text(trained)}"
        return f"held-out loss {number_text(held_out)}{beside}"

    lines = {name: values["held_out"] for name, values in clusters.items()}
    return _lines(data["rounds"], lines, tip, title="held-out loss (nats per token)")


def energy_figure(data: Mapping[str, Any]) -> go.Figure | None:
    """Draw the discarded energy of each cluster."""
    lines = data["clusters"]
    axis = {"title": "discarded energy (%)", "tickformat": ".2~%", "rangemode": "tozero"}
    return _lines(
        data["rounds"], lines, lambda n, i: f"{percent_text(lines[n][i])} discarded", **axis
    )


def communication_figure(data: Mapping[str, Any]) -> go.Figure | None:
    """Draw the bytes of each round."""
    rounds = data["rounds"]
    trained = [index for index, entry in enumerate(rounds) if entry > 0]
    layout = {
        "barmode": "stack",
        "xaxis": _round_axis(rounds),
        "yaxis": {"title": "bytes", **_BYTES},
    }
    drawing = go.Figure(layout=layout)
    for style, (way, to) in enumerate({"down": "to the devices", "up": "to the server"}.items()):
        said = [f"round {rounds[i]}: {bytes_text(data[way][i])} {way} {to}" for i in trained]
        drawing.add_bar(
            x=[rounds[i] for i in trained],
            y=[data[way][i] for i in trained],
            name=way,
            hoverinfo="none",
            meta={"style": style, "tips": said},
        )
    return drawing if any(data["total"]) else None


def total_figure(data: Mapping[str, Any]) -> go.Figure | None:
    """Draw the sum of the bytes so far."""
    total = data["total"]
    drawing = _lines(
        data["rounds"],
        {"up to": total},
        lambda _, index: bytes_text(total[index]),
        joint=" ",
        title="bytes so far",
        **_BYTES,
    )
    return drawing if any(total) else None


def latency_figure(data: Mapping[str, Any]) -> go.Figure | None:
    """Draw observed and predicted seconds over the rank, one colour per device class."""
    ranks, classes, deadline = data["ranks"], data["classes"], data["deadline_seconds"]
    places = {"tickvals": list(range(len(ranks))), "ticktext": ranks}
    x_axis = {"title": "rank", "range": (-0.5, len(ranks) - 0.5), **places}
    drawing = go.Figure(
        layout={"xaxis": x_axis, "yaxis": {"title": "time of a round (s)", "rangemode": "tozero"}}
    )
    for style, (kind, points) in enumerate(classes.items()):
        # Classes at one rank stand side by side, not on top of each other.
        shift = 0.3 * ((style + 0.5) / len(classes) - 0.5)
        tips = [_latency_tip(point) for point in points]
        shared = {
            "x": [ranks.index(point["rank"]) + shift for point in points],
            "legendgroup": str(style),
            "hoverinfo": "none",
            "meta": {"style": style, "name": kind, "joint": ", ", "tips": tips},
        }
        drawing.add_scatter(
            y=[point["predicted"] for point in points],
            mode="lines+markers",
            line={"dash": "dot", "width": 1},
            marker={"symbol": "line-ew", "size": 14, "line": {"width": 2}},
            showlegend=False,
            **shared,
        )
        above, below = (
            [abs(point[end] - point["observed"]) if point["count"] else 0 for point in points]
            for end in ("greatest", "least")
        )
        drawing.add_scatter(
            y=[point["observed"] for point in points],
            name=plotly_text(kind),
            error_y={"array": above, "arrayminus": below, "width": 0},
            **_marks(style),
            **shared,
        )
    dotted = {"mode": "lines", "line": {"dash": "dot"}, "hoverinfo": "skip", "meta": {"style": INK}}
    drawing.add_scatter(x=[None], y=[None], name="predicted", **dotted)
    if deadline is not None:
        said = {"text": f"deadline {seconds_text(deadline)}", "textposition": "end"}
        drawing.add_hline(deadline, line={"dash": "dash", "width": 1}, label=said)
    return drawing if classes else None


def _latency_tip(point: Mapping[str, Any]) -> str:
    keys = ("observed", "least", "greatest", "predicted")
    observed, least, greatest, predicted = (seconds_text(point[key]) for key in keys)
    return (
        f"rank {point['rank']}: observed {observed} ({least} to {greatest}, {point['count']} "
        f"device rounds), predicted {predicted}"
    )


def _lines(
    rounds: Sequence[int],
    lines: Mapping[str, Sequence[float | None]],
    tip: Callable[[str, int], str],
    *,
    joint: str = ", ",
    **y_axis: Any,
) -> go.Figure | None:
    """Draw one line per name over the rounds; None where no line has a value."""
    columns = zip(*lines.values(), strict=True)
    known = [i for i, column in enumerate(columns) if any(value is not None for value in column)]
    shown = [rounds[i] for i in known]
    layout = {"xaxis": _round_axis(shown), "yaxis": y_axis, "showlegend": len(lines) > 1}
    drawing = go.Figure(layout=layout)
    for style, (name, values) in enumerate(lines.items()):
        tips = [f"round {rounds[i]}: {tip(name, i)}" for i in known]
        drawing.add_scatter(
            x=shown,
            y=[values[i] for i in known],
            name=plotly_text(name),
            hoverinfo="none",
            meta={"style": style, "name": name, "joint": joint, "tips": tips},
            **_marks(style),
        )
    return drawing if known else None


def _marks(style: int) -> dict[str, Any]:
    """Return markers and dashes that tell more lines apart than there are colours."""
    line = {"dash": _DASHES[style // 6 % 3], "width": 2}
    return {
        "mode": "lines+markers",
        "line": line,
        "marker": {"symbol": _SYMBOLS[style % 6], "size": 8},
    }


def _round_axis(rounds: Sequence[int]) -> dict[str, Any]:
    few = {"dtick": 1} if len(rounds) <= 12 else {}
    return {"title": "round", "tickformat": "d", **few}
