"""Heatmaps as SVG: cells of one shade are one path, so that 10,000 cells stay small."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flower_strategy.report.charts import COLOURS, drawing, label
from flower_strategy.report.svg import boxes, element, json_island, path
from flower_strategy.report.text import thinned

SHADES = 12
"""Shades from the lowest to the highest value."""

_LABEL_ROOM, _BAND, _READABLE = 118.0, 8.0, 11.0


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Rows or columns.

    Attributes
    ----------
    labels, titles : Sequence[str]
        What is drawn, and what tooltips say; as many as there are cells.
    groups : Sequence[tuple[str, int, int]]
        (name, style, length) of neighbours that belong together; empty for none.
    name : str
        Name of the axis, drawn beside the labels.
    """

    labels: Sequence[str]
    titles: Sequence[str]
    groups: Sequence[tuple[str, int, int]] = ()
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """A matrix with its axes.

    Attributes
    ----------
    title : str
        The figure in words.
    rows, columns : Axis
        The axes.
    shades : Sequence[Sequence[int | None]]
        Shade of each cell, below `SHADES`; None where there is nothing.
    tips : Sequence[Sequence[str]]
        What tooltips say of each cell.
    joined : bool
        Whether the titles of row and column come before that. They then stand in the page once an
        axis, not once a cell.
    texts : Mapping[tuple[int, int], str]
        What is written into cells that are large enough.
    hatched, crossed : frozenset[tuple[int, int]]
        Cells with a pattern, and cells with a cross.
    """

    title: str
    rows: Axis
    columns: Axis
    shades: Sequence[Sequence[int | None]]
    tips: Sequence[Sequence[str]]
    joined: bool = False
    texts: Mapping[tuple[int, int], str] = field(default_factory=dict)
    hatched: frozenset[tuple[int, int]] = frozenset()
    crossed: frozenset[tuple[int, int]] = frozenset()


def shade(value: float, low: float, high: float) -> int:
    """Return the shade of a value."""
    if high <= low:
        return SHADES - 1
    share = (value - low) / (high - low)
    return min(SHADES - 1, max(0, int(share * SHADES)))


def heatmap(name: str, figure: Heatmap, *, cell_width: float, cell_height: float) -> str:
    """Return a heatmap, and its tooltips as data beside it.

    Parameters
    ----------
    name : str
        Identifier of the data in the page.
    figure : Heatmap
        What to draw.
    cell_width, cell_height : float
        Size of a cell, in units of the drawing.
    """
    rows, columns = len(figure.rows.labels), len(figure.columns.labels)
    top = _BAND + 6 if figure.columns.groups else 4.0
    left = _LABEL_ROOM
    right, bottom = left + columns * cell_width, top + rows * cell_height
    room = _column_room(figure.columns, cell_width)
    width, height = max(right + 12, 600.0), bottom + room

    def corner(row: int, column: int) -> tuple[float, float]:
        return left + column * cell_width, top + row * cell_height

    by_shade: dict[int, list[tuple[float, float]]] = defaultdict(list)
    absent = []
    for row, line in enumerate(figure.shades):
        for column, found in enumerate(line):
            if found is not None:
                by_shade[found].append(corner(row, column))
            elif (row, column) not in figure.hatched:
                absent.append(corner(row, column))
    # A gap between cells shows them; cells too small for one touch.
    gap = 1.0 if min(cell_width, cell_height) >= 8 else 0.0
    size = (cell_width - gap, cell_height - gap)
    content = []
    if absent:
        content.append(element("path", d=boxes(absent, *size), class_="absent"))
    content += [
        element("path", d=boxes(places, *size), class_=f"mark shade{found}")
        for found, places in sorted(by_shade.items())
    ]
    if figure.hatched:
        places = [corner(*cell) for cell in sorted(figure.hatched)]
        content.append(_pattern(f"{name}-hatch"))
        content.append(
            element("path", d=boxes(places, *size), class_="mark", fill=f"url(#{name}-hatch)")
        )
    for cell in sorted(figure.crossed):
        x, y = corner(*cell)
        reach = min(*size) / 2
        x, y = x + size[0] / 2, y + size[1] / 2
        cross = path([(x - reach, y - reach), (x + reach, y + reach)])
        cross += path([(x - reach, y + reach), (x + reach, y - reach)])
        content.append(element("path", d=cross, class_="cross"))
    if cell_height >= _READABLE + 3 and cell_width >= 22:
        for cell, text in figure.texts.items():
            x, y = corner(*cell)
            found = figure.shades[cell[0]][cell[1]] or 0
            ink = "ink-high" if found > SHADES // 2 else "ink-low"
            middle = y + size[1] / 2 + 4
            content.append(label(x + size[0] / 2, middle, text, text_anchor="middle", class_=ink))
    content += _row_labels(figure.rows, left, top, right, cell_height)
    content += _column_labels(figure.columns, left, bottom, top, cell_width)
    cursor = element("rect", class_="cursor", width=size[0], height=size[1], visibility="hidden")
    data = {
        "x": left,
        "y": top,
        "width": cell_width,
        "height": cell_height,
        "rows": list(figure.rows.titles),
        "columns": list(figure.columns.titles),
        "joined": figure.joined,
        "tips": [list(line) for line in figure.tips],
    }
    svg = drawing(figure.title, width, height, *content, cursor, heat=name)
    return svg + json_island(name, data)


def _row_labels(axis: Axis, left: float, top: float, right: float, cell_height: float) -> list[str]:
    parts = []
    labelled = cell_height >= _READABLE
    if labelled:
        for index, text in enumerate(axis.labels):
            middle = top + (index + 0.5) * cell_height + 4
            parts.append(label(left - _BAND - 6, middle, _cut(text), text_anchor="end"))
    y = top
    for position, (name, style, length) in enumerate(axis.groups):
        size = length * cell_height
        parts.append(
            element(
                "rect",
                x=left - _BAND - 2,
                y=y,
                width=_BAND,
                height=max(size - 1, 1),
                class_=f"fill{style % COLOURS}",
            )
        )
        if position:
            line = path([(left - _BAND - 2, y - 0.5), (right, y - 0.5)])
            parts.append(element("path", d=line, class_="boundary"))
        if not labelled and size >= _READABLE:
            parts.append(label(left - _BAND - 6, y + size / 2 + 4, _cut(name), text_anchor="end"))
        y += size
    return parts


def _column_labels(
    axis: Axis, left: float, bottom: float, top: float, cell_width: float
) -> list[str]:
    parts = []
    if _turned(axis, cell_width):
        for index, text in enumerate(axis.labels):
            x = left + (index + 0.5) * cell_width
            turned = f"translate({x + 3:.2f} {bottom + 8:.2f}) rotate(-60)"
            parts.append(label(0, 0, text, text_anchor="end", transform=turned))
    elif not axis.groups:
        most = max(1, int(len(axis.labels) * cell_width / 34))
        for index in thinned(range(len(axis.labels)), most=most):
            x = left + (index + 0.5) * cell_width
            parts.append(label(x, bottom + 16, axis.labels[index], text_anchor="middle"))
    if axis.name:
        middle = left + len(axis.labels) * cell_width / 2
        parts.append(label(middle, bottom + 34, axis.name, text_anchor="middle", class_="name"))
    x = left
    for position, (_, style, length) in enumerate(axis.groups):
        size = length * cell_width
        parts.append(
            element(
                "rect",
                x=x,
                y=top - _BAND - 2,
                width=max(size - 1, 1),
                height=_BAND,
                class_=f"fill{style % COLOURS}",
            )
        )
        if position:
            line = path([(x - 0.5, top - _BAND - 2), (x - 0.5, bottom)])
            parts.append(element("path", d=line, class_="boundary"))
        x += size
    return parts


def _turned(axis: Axis, cell_width: float) -> bool:
    return bool(axis.groups) and cell_width >= _READABLE


def _column_room(axis: Axis, cell_width: float) -> float:
    if _turned(axis, cell_width):
        return 14 + 6.0 * max(map(len, axis.labels), default=0)
    return (22 if not axis.groups else 6) + (20 if axis.name else 0)


def _cut(text: str, most: int = 17) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _pattern(identifier: str) -> str:
    return element(
        "defs",
        element(
            "pattern",
            element("rect", width=6, height=6, class_="absent"),
            element("path", d="M-1 5L1 7M0 0L6 6M5 -1L7 1", class_="hatch"),
            id=identifier,
            width=6,
            height=6,
            patternUnits="userSpaceOnUse",
        ),
    )
