"""Charts with two axes, as SVG: lines, points and stacked bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from flower_strategy.report.svg import element, escaped, path
from flower_strategy.report.text import Scale, ticks

WIDTH, HEIGHT = 600.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 80.0, 16.0, 14.0, 44.0
COLOURS = 6
"""Colours of the palette; series beyond them repeat colours with other dashes and markers."""


@dataclass(frozen=True)
class Point:
    """A point; `y` is None where there is no value, and a line breaks there."""

    x: float
    y: float | None
    tip: str = ""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one colour.

    Attributes
    ----------
    style : int
        Position in the palette.
    points : Sequence[Point]
        In the order of the line.
    line, marks : bool
        Whether the points are joined, and whether each has a marker.
    dashed : bool
        Whether the line is dashed, as predictions are.
    spans : Sequence[tuple[float, float, float]]
        Vertical lines, (x, low, high): the spread of what a marker is the mean of.
    """

    style: int
    points: Sequence[Point]
    line: bool = True
    marks: bool = True
    dashed: bool = False
    spans: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What surrounds the marks.

    Attributes
    ----------
    title : str
        The chart in words, for those who do not see it.
    x_label, y_label : str
        Names of the axes, with units.
    x_ticks : Sequence[tuple[float, str]]
        Values and their labels; the axis goes from the first to the last value of `x_range`.
    x_range : tuple[float, float]
        Ends of the axis.
    y_text : Callable
        Formats values of the vertical axis.
    from_zero : bool
        Whether the vertical axis begins at 0.
    level : tuple[float, str] or None
        A value to draw across, and what it is.
    """

    title: str
    x_label: str
    y_label: str
    x_ticks: Sequence[tuple[float, str]]
    x_range: tuple[float, float]
    y_text: Callable[[float], str]
    from_zero: bool = False
    level: tuple[float, str] | None = None


def marker(style: int, x: float, y: float, *, size: float = 4.5, tip: str | None = None) -> str:
    """Return a series' marker: a disc, a square, or a diamond."""
    shape = style // COLOURS % 3
    if shape == 0:
        arc = f"a{size} {size} 0 1 0 {{}} 0"
        d = f"M{x - size:.2f} {y:.2f}{arc.format(2 * size)}{arc.format(-2 * size)}z"
    else:
        corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)] if shape == 1 else _DIAMOND
        d = path((x + dx * size * 0.9, y + dy * size * 0.9) for dx, dy in corners) + "z"
    return element("path", d=d, class_=f"mark fill{style % COLOURS}", data_tip=tip)


_DIAMOND = [(0.0, -1.4), (1.4, 0.0), (0.0, 1.4), (-1.4, 0.0)]


def xy_chart(axes: Axes, series: Sequence[Series]) -> str:
    """Return a chart of lines and points."""
    values = [point.y for one in series for point in one.points if point.y is not None]
    values += [end for one in series for _, *ends in one.spans for end in ends]
    across, up, frame = _frame(axes, values)
    lines, marks = [], []
    for one in series:
        colour = f"line{one.style % COLOURS}"
        dash = "dashed" if one.dashed else f"dash{one.style // COLOURS % 3}"
        for x, low, high in one.spans:
            ends = path([(across(x), up(low)), (across(x), up(high))])
            lines.append(element("path", d=ends, class_=f"span {colour}"))
        if one.line:
            for known, run in groupby(one.points, key=lambda point: point.y is not None):
                places = [(across(p.x), up(p.y)) for p in run if p.y is not None]
                if known and len(places) > 1:
                    lines.append(element("path", d=path(places), class_=f"line {colour} {dash}"))
        if one.marks:
            size = 4.5 if len(one.points) <= 40 else 2.5
            marks += [
                marker(one.style, across(point.x), up(point.y), size=size, tip=point.tip)
                for point in one.points
                if point.y is not None
            ]
    return drawing(axes.title, WIDTH, HEIGHT, frame, *lines, *marks)


def bar_chart(axes: Axes, stacks: Sequence[tuple[float, Sequence[tuple[int, float, str]]]]) -> str:
    """Return a chart of stacked bars.

    Parameters
    ----------
    axes : Axes
        The axes; the vertical one begins at 0.
    stacks : Sequence
        (x, parts) with parts (style, value, tooltip), from the bottom up.
    """
    sums = [sum(value for _, value, _ in parts) for _, parts in stacks]
    across, up, frame = _frame(axes, sums)
    room = (WIDTH - _LEFT - _RIGHT) / max(len(stacks), 1)
    width = min(48.0, 0.7 * room)
    bars = []
    for x, parts in stacks:
        base = 0.0
        for style, value, tip in parts:
            if value > 0:
                top = up(base + value)
                bars.append(
                    element(
                        "rect",
                        x=across(x) - width / 2,
                        y=top,
                        width=width,
                        height=max(up(base) - top, 0.5),
                        class_=f"mark bar fill{style % COLOURS}",
                        data_tip=tip,
                    )
                )
                base += value
    return drawing(axes.title, WIDTH, HEIGHT, frame, *bars)


def drawing(title: str, width: float, height: float, *content: str, heat: str | None = None) -> str:
    """Return an SVG element that can be reached with the keyboard and scales with the page."""
    return element(
        "svg",
        *content,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        aria_label=title,
        tabindex="0",
        data_heat=heat,
        style=f"max-width:{1.25 * width:.0f}px",
    )


def label(x: float, y: float, content: str, **attributes: str | float | None) -> str:
    """Return a text in a chart."""
    return element("text", escaped(content), x=x, y=y, **attributes)


def _frame(axes: Axes, values: Sequence[float]) -> tuple[Scale, Scale, str]:
    level = axes.level
    shown = [*values, level[0]] if level else list(values)
    steps = ticks(shown, from_zero=axes.from_zero)
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    across = Scale(*axes.x_range, _LEFT, right)
    up = Scale(steps[0], steps[-1], bottom, _TOP)
    parts = []
    for step in steps:
        y = up(step)
        parts.append(element("path", d=path([(_LEFT, y), (right, y)]), class_="grid"))
        text = axes.y_text(step)
        parts.append(label(_LEFT - 8, y + 4, text, text_anchor="end"))
    for x, text in axes.x_ticks:
        parts.append(label(across(x), bottom + 18, text, text_anchor="middle"))
    parts.append(element("path", d=path([(_LEFT, bottom), (right, bottom)]), class_="axis"))
    middle = (_LEFT + right) / 2
    parts.append(label(middle, HEIGHT - 7, axes.x_label, text_anchor="middle", class_="name"))
    turned = f"translate(13 {(_TOP + bottom) / 2:.0f}) rotate(-90)"
    parts.append(label(0, 0, axes.y_label, text_anchor="middle", class_="name", transform=turned))
    if level:
        y = up(level[0])
        parts.append(element("path", d=path([(_LEFT, y), (right, y)]), class_="level"))
        parts.append(label(right, y - 5, level[1], text_anchor="end", class_="name"))
    return across, up, element("g", *parts, class_="frame")
