"""Figures that are heatmaps: ranks, task embeddings, discarded energy by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from flower_strategy.report.cell_charts import Axis, Heatmap, heatmap, shade
from flower_strategy.report.charts import COLOURS
from flower_strategy.report.data import LEFT_OUT, NOT_ASKED, REFUSED, TRAINED
from flower_strategy.report.figure import Figure, series_legend, shade_legend, square, swatch
from flower_strategy.report.svg import element
from flower_strategy.report.text import percent_text

_ROOM = 470.0


def ranks_figure(data: Mapping[str, Any], clusters: Sequence[str]) -> Figure:
    """Draw the rank of each device in each round."""
    rounds, devices, cells = data["rounds"], data["devices"], data["cells"]
    flat = [(r, c, cell) for r, row in enumerate(cells) for c, cell in enumerate(row)]
    known = sorted({cell["rank"] for _, _, cell in flat if cell.get("rank") is not None})

    def rank_shade(rank: int | None) -> int | None:
        return None if rank is None else shade(known.index(rank), -0.5, len(known) - 0.5)

    def tip(device: Mapping[str, str], number: int, cell: Mapping[str, Any]) -> str:
        rank = cell.get("rank")
        said = {
            TRAINED: f"rank {rank}",
            LEFT_OUT: f"left out: {cell.get('reason') or 'no reason given'}",
            REFUSED: f"reply refused: {cell.get('reason')}",
            NOT_ASKED: "not asked to train",
        }[cell["state"]]
        return f"{device['title']}, round {number}: {said}"

    states = {cell["state"] for _, _, cell in flat}
    figure = Heatmap(
        title="Rank of each device in each round",
        rows=_device_axis(devices, clusters),
        columns=Axis(
            labels=[str(entry) for entry in rounds],
            titles=[f"round {entry}" for entry in rounds],
            name="round",
        ),
        shades=[[rank_shade(cell.get("rank")) for cell in row] for row in cells],
        tips=[
            [tip(device, number, cell) for number, cell in zip(rounds, row, strict=True)]
            for device, row in zip(devices, cells, strict=True)
        ],
        texts={(r, c): str(cell["rank"]) for r, c, cell in flat if cell["state"] == TRAINED},
        hatched=frozenset((r, c) for r, c, cell in flat if cell["state"] == LEFT_OUT),
        crossed=frozenset((r, c) for r, c, cell in flat if cell["state"] == REFUSED),
    )
    legend = _cluster_legend(devices, clusters)
    legend += [swatch(square(f"shade{rank_shade(rank)}"), f"rank {rank}") for rank in known]
    if LEFT_OUT in states:
        hatch = element("path", d="M1 8L8 1M3 15L15 3M9 15L15 9", class_="hatch")
        legend.append(swatch(square("absent") + hatch, "left out"))
    if REFUSED in states:
        cross = element("path", d="M3 3L13 13M13 3L3 13", class_="cross")
        legend.append(swatch(cross, "reply refused"))
    if NOT_ASKED in states:
        legend.append(swatch(square("absent"), "not asked"))
    drawn = bool(rounds and devices)
    return Figure(
        name="ranks",
        title="Rank per device",
        caption="LoRA rank that each device trained at, round by round, devices ordered by "
        f"cluster.{_shown(devices, data['of'])}",
        drawing=heatmap(
            "ranks",
            figure,
            cell_width=min(44.0, _ROOM / len(rounds)),
            cell_height=_row_height(len(devices)),
        )
        if drawn
        else "",
        missing="No round has trained yet." if devices else "The run has no devices.",
        legend=legend,
    )


def embedding_figure(data: Mapping[str, Any], clusters: Sequence[str]) -> Figure:
    """Draw the cosines of the task embeddings."""
    devices, cosine = data["devices"], data["cosine"]
    others = [value for r, row in enumerate(cosine) for c, value in enumerate(row) if c != r]
    low, high = min(others, default=0.0), max(others, default=1.0)
    axis = _device_axis(devices, clusters)
    figure = Heatmap(
        title="Cosine of the task embeddings of every two devices",
        rows=axis,
        columns=axis,
        shades=[[shade(value, low, high) for value in row] for row in cosine],
        tips=[[f"cosine {value:.3f}" for value in row] for row in cosine],
        joined=True,
        texts={(r, c): f"{v:.2f}" for r, row in enumerate(cosine) for c, v in enumerate(row)},
    )
    cell = min(40.0, _ROOM / max(len(devices), 1))
    return Figure(
        name="embedding",
        title="Task embeddings",
        caption="Cosine between the devices' task embeddings, devices ordered by cluster; lines "
        f"are the clusters' boundaries.{_shown(devices, data['of'])}",
        drawing=heatmap("embedding", figure, cell_width=cell, cell_height=cell) if devices else "",
        missing="No device has given a task embedding.",
        legend=[*_cluster_legend(devices, clusters), *shade_legend(low, high)],
    )


def layers_figure(data: Mapping[str, Any], clusters: Sequence[str]) -> Figure:
    """Draw the discarded energy by layer: modules of each cluster as rows, blocks as columns."""
    found: Mapping[str, Any] = data["clusters"]
    entries = {
        (name, layer["module"], layer["block"]): layer
        for name, cluster in found.items()
        for layer in cluster["layers"]
    }
    blocks = sorted(
        {block for _, _, block in entries}, key=lambda block: (block is not None, block or 0)
    )
    rows = list(dict.fromkeys((name, module) for name, module, _ in entries))
    values = [layer["discarded_energy"] for layer in entries.values()]
    low, high = 0.0, max(values, default=0.0)

    def shade_of(name: str, module: str, block: int | None) -> int | None:
        layer = entries.get((name, module, block))
        # Everything kept is the lowest shade, not the only one.
        return None if layer is None else shade(layer["discarded_energy"], low, high or 1.0)

    def tip(name: str, module: str, block: int | None) -> str:
        layer = entries.get((name, module, block))
        if layer is None:
            return ""
        share = percent_text(layer["discarded_energy"])
        return f"{name}, {layer['layer']}: {share} discarded in round {found[name]['round']}"

    figure = Heatmap(
        title="Discarded energy of each layer in the last round",
        rows=Axis(
            labels=[module for _, module in rows],
            titles=[f"{name}, {module}" for name, module in rows],
            groups=[
                (name, clusters.index(name), len(list(group)))
                for name, group in groupby(name for name, _ in rows)
            ],
        ),
        columns=Axis(
            labels=["–" if block is None else str(block) for block in blocks],
            titles=[f"block {block}" for block in blocks],
            name="block",
        ),
        shades=[[shade_of(*row, block) for block in blocks] for row in rows],
        tips=[[tip(*row, block) for block in blocks] for row in rows],
    )
    legend = series_legend((name, clusters.index(name) % COLOURS) for name in found)
    if entries:
        scale = shade_legend(low * 100, high * 100)
        legend.append(f"{scale[0]} %")
    return Figure(
        name="layers",
        title="Discarded energy per layer",
        caption="Share of each layer's squared singular values that was cut off in the last round "
        "in which the cluster's adapter moved.",
        drawing=heatmap(
            "layers",
            figure,
            cell_width=min(40.0, _ROOM / len(blocks)),
            cell_height=_row_height(len(rows)),
        )
        if entries
        else "",
        missing="The run's history holds no energy by layer.",
        legend=legend,
        header=("Cluster", "Layer", "Discarded energy"),
        rows=[
            (name, layer["layer"], percent_text(layer["discarded_energy"]))
            for (name, _, _), layer in entries.items()
        ],
    )


def _device_axis(devices: Sequence[Mapping[str, str]], clusters: Sequence[str]) -> Axis:
    return Axis(
        labels=[f"{device['device'][:10]} {device['short']}" for device in devices],
        titles=[device["title"] for device in devices],
        groups=[
            (name, clusters.index(name) if name in clusters else len(clusters), len(list(group)))
            for name, group in groupby(device["cluster"] for device in devices)
        ],
    )


def _cluster_legend(devices: Sequence[Mapping[str, str]], clusters: Sequence[str]) -> list[str]:
    names = dict.fromkeys(device["cluster"] for device in devices)
    return [
        swatch(square(f"fill{clusters.index(name) % COLOURS}"), name)
        for name in names
        if name in clusters
    ]


def _row_height(count: int) -> float:
    return 20.0 if count <= 16 else 14.0 if count <= 40 else 7.0 if count <= 80 else 5.0


def _shown(devices: Sequence[Any], total: int) -> str:
    if len(devices) == total:
        return ""
    return f" {len(devices):,} of {total:,} devices are shown, each cluster in proportion."
