"""The report's heatmaps: ranks, task embeddings, discarded energy by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from plotly import graph_objects as go

from flower_strategy.report.data import LEFT_OUT, NOT_ASKED, REFUSED, TRAINED
from flower_strategy.report.figures import INK, plotly_text
from flower_strategy.report.text import percent_text

_READABLE, _TOP, _BOTTOM = 12, 34, 96
_MOST_WRITTEN = 12
"""Most rows and columns of a heatmap whose cells hold their values as text."""
_SYMBOLS = {LEFT_OUT: "circle-open", REFUSED: "x", NOT_ASKED: "line-ew"}


def ranks_figure(data: Mapping[str, Any]) -> go.Figure | None:
    """Draw the rank of each device in each round."""
    rounds, devices, cells = data["rounds"], data["devices"], data["cells"]
    flat = [(r, c, cell) for r, row in enumerate(cells) for c, cell in enumerate(row)]
    known = sorted({cell["rank"] for _, _, cell in flat if cell.get("rank") is not None})
    drawing = _cells(
        [
            [None if (rank := cell.get("rank")) is None else known.index(rank) for cell in row]
            for row in cells
        ],
        rows=_labels(devices),
        columns=[str(entry) for entry in rounds],
        clusters=[device["cluster"] for device in devices],
        titles=([device["title"] for device in devices], [f"round {entry}" for entry in rounds]),
        tips=[[_rank_tip(cell) for cell in row] for row in cells],
        bar={"title": "rank", "tickvals": list(range(len(known))), "ticktext": known},
        limits=(-0.5, len(known) - 0.5),
        axes=("round", "device"),
    )
    if max(len(rounds), len(devices)) <= _MOST_WRITTEN:
        ranks = [
            [cell["rank"] if cell["state"] == TRAINED else "" for cell in row] for row in cells
        ]
        drawing.update_traces(text=ranks, texttemplate="%{text}")
    for state, symbol in _SYMBOLS.items():
        if places := [(r, c) for r, c, cell in flat if cell["state"] == state]:
            drawing.add_scatter(
                x=[c for _, c in places],
                y=[r for r, _ in places],
                name="reply refused" if state == REFUSED else state,
                mode="markers",
                marker={"symbol": symbol, "size": 6, "line": {"width": 1}},
                hoverinfo="skip",
                meta={"style": INK},
            )
    return drawing if rounds and devices else None


def embedding_figure(data: Mapping[str, Any]) -> go.Figure | None:
    """Draw the cosines of the task embeddings."""
    devices, cosine = data["devices"], data["cosine"]
    others = [value for r, row in enumerate(cosine) for c, value in enumerate(row) if c != r]
    titles = [device["title"] for device in devices]
    clusters = [device["cluster"] for device in devices]
    drawing = _cells(
        cosine,
        rows=_labels(devices),
        columns=[],
        clusters=clusters,
        titles=(titles, titles),
        joint=" and ",
        bar={"title": "cosine"},
        limits=(min(others, default=0.0), max(others, default=1.0)),
        axes=("device, in the order of the rows", "device"),
    )
    if len(devices) <= _MOST_WRITTEN:
        drawing.update_traces(texttemplate="%{z:.2f}")
    for edge in _edges(clusters)[1:-1]:
        drawing.add_vline(edge, line={"width": 1})
    return drawing if devices else None


def layers_figure(data: Mapping[str, Any]) -> go.Figure | None:
    """Draw the discarded energy by layer: modules of each cluster as rows, blocks as columns."""
    entries = {
        (name, layer["module"], layer["block"]): (
            layer["discarded_energy"],
            f"{layer['layer']}: {percent_text(layer['discarded_energy'])} discarded in round "
            f"{cluster['round']}",
        )
        for name, cluster in data["clusters"].items()
        for layer in cluster["layers"]
    }
    blocks = sorted({block for *_, block in entries}, key=lambda b: (b is not None, b or 0))
    rows = list(dict.fromkeys((name, module) for name, module, _ in entries))
    lines = [[entries.get((*row, block), (None, "")) for block in blocks] for row in rows]
    drawing = _cells(
        [[energy for energy, _ in line] for line in lines],
        rows=[module for _, module in rows],
        columns=["–" if block is None else str(block) for block in blocks],
        clusters=[name for name, _ in rows],
        titles=([name for name, _ in rows], []),
        tips=[[tip for _, tip in line] for line in lines],
        bar={"title": "discarded energy (%)", "tickformat": ".2~%"},
        # Everything kept is the lowest shade, not the only one.
        limits=(0.0, max((energy for energy, _ in entries.values()), default=0.0) or 1.0),
        axes=("block", "module"),
    )
    return drawing if entries else None


def _cells(
    values: Sequence[Sequence[float | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    clusters: Sequence[str],
    titles: tuple[Sequence[str], Sequence[str]],
    bar: Mapping[str, Any],
    limits: tuple[float, float],
    axes: tuple[str, str],
    tips: Sequence[Sequence[str]] | None = None,
    joint: str = ", ",
) -> go.Figure:
    """Draw a heatmap whose rows stand in the order of their clusters.

    Tooltips hold each title once an axis and each text once, not once a cell: 10,000 cells stay
    small. Without texts they say the value.
    """
    height = 26 if len(rows) <= 16 else 14 if len(rows) <= 40 else 5
    low, high = limits
    texts = list(dict.fromkeys(tip for line in tips or () for tip in line))
    index = {text: place for place, text in enumerate(texts)}
    meta = {
        "rows": titles[0],
        "columns": titles[1],
        "joint": joint,
        "name": bar["title"],
        "texts": texts,
        "tips": [[index[tip] for tip in line] for line in tips or ()],
    }
    below = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "thickness": 10}
    drawing = go.Figure(
        layout={
            "height": _TOP + _BOTTOM + max(150, height * len(rows)),
            "margin": {"t": _TOP, "b": _BOTTOM, "r": 28},
            "xaxis": _axis(axes[0], columns, len(columns) / 12),
            "yaxis": _axis(axes[1], rows, _READABLE / height) | {"autorange": "reversed"},
        }
    )
    drawing.add_heatmap(
        z=values,
        zmin=low if low < high else high - 1,
        zmax=high,
        xgap=int(len(columns or rows) <= 40),
        ygap=int(len(rows) <= 40),
        hoverinfo="none",
        meta=meta,
        colorbar={**below, "len": 0.9, **bar},
    )
    for start, end in pairwise(_edges(clusters)):
        if end < len(rows) - 0.5:
            drawing.add_hline(end, line={"width": 1})
        if (room := int((end - start) * height) // 8) > 5:
            name = plotly_text(clusters[int(end)][:room])
            place = {
                "x": 1,
                "xref": "paper",
                "xanchor": "left",
                "y": (start + end) / 2,
                "yref": "y",
            }
            drawing.add_annotation(text=name, textangle=90, showarrow=False, **place)
    return drawing


def _axis(title: str, labels: Sequence[str], every: float) -> dict[str, Any]:
    places = list(range(0, len(labels), max(1, math.ceil(every))))
    names = [plotly_text(labels[place]) for place in places]
    grid = {"showgrid": False, "zeroline": False}
    return {"title": title, "tickvals": places, "ticktext": names, **grid}


def _edges(clusters: Sequence[str]) -> list[float]:
    """Return where the rows of each cluster begin, and where the last ones end."""
    inner = [i + 0.5 for i, (one, other) in enumerate(pairwise(clusters)) if one != other]
    return [-0.5, *inner, len(clusters) - 0.5]


def _rank_tip(cell: Mapping[str, Any]) -> str:
    return {
        TRAINED: f"rank {cell.get('rank')}",
        LEFT_OUT: f"left out: {cell.get('reason') or 'no reason given'}",
        REFUSED: f"reply refused: {cell.get('reason')}",
        NOT_ASKED: "not asked to train",
    }[cell["state"]]


def _labels(devices: Sequence[Mapping[str, str]]) -> list[str]:
    return [f"{device['device'][:10]} {device['short']}" for device in devices]
