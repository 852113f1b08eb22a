"""The report's figures, as Vega-Lite specifications.

Screen readers read a mark's description, and the page's script shows it as the mark's tooltip.
Colours are variables of the style sheet, which defines them for light and dark backgrounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from string import Formatter
from typing import Any, cast

import altair as alt

from flower_strategy.report.data import LEFT_OUT, NOT_ASKED, REFUSED, TRAINED

Rows = list[dict[str, Any]]
Drawing = tuple[Rows, alt.Chart | alt.LayerChart | alt.FacetChart]

_ROWS = alt.NamedData(name="rows")
_COLOURS = [f"var(--c{index})" for index in range(6)]
_SHADES = [f"var(--h{index})" for index in range(8)]
_STATES = {
    LEFT_OUT: ("left out", "var(--warm)"),
    REFUSED: ("reply refused", "var(--c3)"),
    NOT_ASKED: ("not asked to train", "var(--absent)"),
}
_BYTES = alt.Axis(labelExpr="format(datum.value, '~s') + 'B'")
_NUMBER = "(isValid(datum.{0}) ? format(datum.{0}, ',.3~r') : '–')"
_TEXTS = {
    "": "datum.{0}",
    "number": _NUMBER,
    "seconds": f"{_NUMBER} + ' s'",
    "percent": "format(100 * datum.{0}, ',.3~r') + ' %'",
    "bytes": "format(datum.{0}, '.3~s') + 'B'",
    "cosine": "format(datum.{0}, '.3f')",
    "rank": "(isNumber(datum.{0}) ? 'rank ' : '') + datum.{0}",
    "trained": f"(isValid(datum.{{0}}) ? ', training loss ' + {_NUMBER} : '')",
}
"""The format of each field in tooltips, as Vega expressions."""
_LABEL = "slice(datum.label, 4)"
"""The drawn part of a row's name, without the number that makes it unique."""


def figures(data: Mapping[str, Any], clusters: Sequence[str]) -> dict[str, Any]:
    """Return figure name -> Vega-Lite specification, for the figures that have data."""
    losses, moved, energy = data["loss"], data["communication"], data["energy"]
    drawings = {
        "loss": _lines(
            losses["rounds"],
            {name: {"value": v["held_out"], **v} for name, v in losses["clusters"].items()},
            alt.Y("value:Q", title="held-out loss").scale(zero=False),
            "{name}, round {round}: held-out loss {value:number}{train:trained}",
        ),
        "latency": _latency(data["latency"]),
        "time": _time(data["time"]),
        "ranks": _ranks(data["ranks"], clusters),
        "embedding": _embedding(data["embedding"], clusters),
        "communication": _communication(moved),
        "communication-total": _lines(
            moved["rounds"],
            {"total": {"value": moved["total"]}} if any(moved["total"]) else {},
            alt.Y("value:Q", title="bytes so far", axis=_BYTES),
            "up to round {round}: {value:bytes}",
        ),
        "energy": _lines(
            energy["rounds"],
            {name: {"value": shares} for name, shares in energy["clusters"].items()},
            alt.Y("value:Q", title="discarded energy").axis(format=".2~%"),
            "{name}, round {round}: {value:percent} discarded",
        ),
        "layers": _layers(data["layers"], clusters),
    }
    # Altair checks and copies a chart's data many times, so it does not get the rows.
    return {
        name: chart.properties(width="container").to_dict() | {"datasets": {"rows": rows}}
        for name, (rows, chart) in drawings.items()
        if rows
    }


def _communication(data: Mapping[str, Any]) -> Drawing:
    """Draw the bytes of each round."""
    ways = {"down": "down to the devices", "up": "up to the server"}
    rows = [{"way": ways[way], "round": data["rounds"], "value": data[way]} for way in ways]
    chart = _chart(rows, "round {round}: {value:bytes} {way}").transform_filter(
        # In the first round nothing goes down; a bar without a length would still take the focus.
        "datum.round > 0 && datum.value > 0"
    )
    return rows if any(data["total"]) else [], chart.mark_bar().encode(
        x=alt.X("round:O", title="round").axis(labelAngle=0).scale(paddingInner=0.2),
        y=alt.Y("value:Q", title="bytes", axis=_BYTES),
        color=_colour("way", list(ways.values())),
    )


def _latency(data: Mapping[str, Any]) -> Drawing:
    """Draw observed and predicted seconds over the rank, one colour per device class."""
    classes, deadline = data["classes"], data["deadline_seconds"]
    rows = [{"name": kind, **point} for kind, points in classes.items() for point in points]
    # Classes at one rank stand side by side, not on top of each other.
    base = _chart(
        rows,
        "{name}, rank {rank}: observed {observed:seconds} ({least:seconds} to {greatest:seconds}, "
        "{count} device rounds), predicted {predicted:seconds}",
    ).encode(
        x=alt.X("rank:O", title="rank").axis(labelAngle=0),
        xOffset="name:N",
        color=_colour("name", list(classes)),
    )
    layers = [
        base.mark_rule(strokeWidth=2, aria=False).encode(y="least:Q", y2="greatest:Q"),
        base.mark_tick(orient="horizontal", thickness=3, size=18).encode(y="predicted:Q"),
        _marks(base, list(classes)).encode(y=alt.Y("observed:Q", title="seconds of a round")),
    ]
    if deadline is not None:
        level = alt.Chart(alt.Data(values=[{"y": deadline}])).encode(y="y:Q")
        said = level.mark_text(align="left", dy=-7, text=f"deadline {deadline:,g} s")
        layers += [level.mark_rule(strokeDash=[8, 4]), said.encode(x=alt.value(4))]
    return rows, alt.layer(*layers)


def _time(data: Mapping[str, Any]) -> Drawing:
    """Draw the mean seconds of a round by what devices of a class spent them on."""
    parts = ("training", "transport", "idle")
    rows = [
        {"name": kind, "part": part, "value": one[part] / one["rounds"], "order": index}
        for kind, one in data["classes"].items()
        for index, part in enumerate(parts)
        if one[part] > 0
    ]
    chart = _chart(rows, "{name}: {value:seconds} {part} in a round").mark_bar()
    return rows, chart.properties(height=max(120, 32 * len(data["classes"]))).encode(
        x=alt.X("value:Q", title="seconds of a round, mean"),
        y=alt.Y("name:N", title=None).scale(paddingInner=0.2),
        color=_colour("part", parts),
        order="order:Q",
    )


def _ranks(data: Mapping[str, Any], clusters: Sequence[str]) -> Drawing:
    """Draw the rank of each device in each round."""
    rows, rounds = _devices(data["devices"]), [str(entry) for entry in data["rounds"]]
    for row, cells in zip(rows, data["cells"], strict=True):
        row["column"] = rounds
        row["value"] = [_STATES.get(cell["state"], (cell.get("rank"),))[0] for cell in cells]
        row["why"] = [
            f": {c['reason'] or 'no reason given'}" if "reason" in c else "" for c in cells
        ]
    flat = [cell for cells in data["cells"] for cell in cells]
    known = sorted({cell["rank"] for cell in flat if cell["state"] == TRAINED})
    shades = {rank: _SHADES[7 * (index + 1) // len(known)] for index, rank in enumerate(known)}
    shades |= dict(_STATES[s] for s in _STATES if any(cell["state"] == s for cell in flat))
    return _cells(
        rows,
        "{title}, round {column}: {value:rank}{why}",
        alt.X("column:N", title="round").axis(labelAngle=0).scale(domain=rounds),
        alt.Color("value:N", title="rank").scale(domain=[*shades], range=[*shades.values()]),
        clusters,
        f"datum.value >= {known[len(known) // 2] if known else 0}",
    )


def _embedding(data: Mapping[str, Any], clusters: Sequence[str]) -> Drawing:
    """Draw the cosines of the task embeddings."""
    rows, cosine = _devices(data["devices"]), data["cosine"]
    others = [value for r, line in enumerate(cosine) for c, value in enumerate(line) if c != r]
    low, high = min(others, default=0.0), max(others, default=1.0)
    names = [row["row"] for row in rows]
    for row, line in zip(rows, cosine, strict=True):
        row |= {"column": names, "value": line}
    return _cells(
        rows,
        "{title} and {other}: cosine {value:cosine}",
        alt.X("column:N", title=None).axis(labelAngle=-60, labelExpr=_LABEL).scale(domain=names),
        _shaded("cosine", low, high, ".2f"),
        clusters,
        f"datum.value > {(low + high) / 2}",
    )


def _layers(data: Mapping[str, Any], clusters: Sequence[str]) -> Drawing:
    """Draw the discarded energy by layer: modules of each cluster as rows, blocks as columns."""
    rows = [
        {
            "row": f"{index:04}{layer['module']}",
            "cluster": name,
            "round": cluster["round"],
            "column": "–" if layer["block"] is None else str(layer["block"]),
            "value": layer["discarded_energy"],
            "layer": layer["layer"],
        }
        for index, (name, cluster) in enumerate(data["clusters"].items())
        for layer in cluster["layers"]
    ]
    columns = {row["column"] for row in rows}
    blocks = sorted(columns, key=lambda one: (one.isdecimal(), len(one), one))
    # If nothing is discarded, 0 is the lowest shade and not the only one.
    high = max((row["value"] for row in rows), default=0.0) or 1.0
    return _cells(
        rows,
        "{cluster}, {layer}: {value:percent} discarded in round {round}",
        alt.X("column:N", title="block").axis(labelAngle=0).scale(domain=blocks),
        _shaded("discarded energy", 0.0, high, ".2~%"),
        clusters,
    )


def _devices(devices: Sequence[Mapping[str, str]]) -> Rows:
    """Return a heatmap's rows for devices, without cells."""
    return [
        {"row": f"{index:04}{one['device'][:10]} {one['short']}", **one}
        for index, one in enumerate(devices)
    ]


def _cells(
    rows: Rows, tip: str, x: alt.X, colour: alt.Color, clusters: Sequence[str], dark: str = ""
) -> Drawing:
    """Draw a heatmap whose rows are ordered by cluster.

    Rows may hold their cells as lists, so that the page holds shared values once. Cells that are
    large enough show their number, in light text where the expression `dark` is true.
    """
    names = list(dict.fromkeys(row["row"] for row in rows))
    step = 26 if len(names) <= 16 else 14 if len(names) <= 40 else 5
    for before, row in pairwise(rows):
        row["edge"] = row["cluster"] != before["cluster"]
    axis = alt.Axis(offset=12, labelExpr=_LABEL, labelOverlap=True)
    y = alt.Y("row:N", title=None, axis=axis).scale(domain=names)
    base, cells = alt.Chart(_ROWS).encode(y=y), _chart(rows, tip).encode(x=x, y=y)
    strip = base.mark_rect(aria=False).encode(x=alt.value(-10), x2=alt.value(-4))
    edges = base.transform_filter("datum.edge").encode(y=alt.Y("row:N", bandPosition=0))
    layers = [
        strip.encode(color=_colour("cluster", clusters)),
        cells.mark_rect(stroke="var(--card)", strokeWidth=int(step > 5)).encode(color=colour),
        edges.mark_rule(),
    ]
    if dark and len(names) <= 12:
        room = alt.expr("bandwidth('x') < 26 ? 0 : 1")
        ink = alt.when(dark).then(alt.value("var(--card)")).otherwise(alt.value("var(--ink)"))
        number = alt.when("isNumber(datum.value)").then(alt.Text("value:Q", format=".2~f"))
        layers.append(cells.mark_text(aria=False, opacity=room).encode(text=number, color=ink))
    chart = (
        alt.layer(*layers).resolve_scale(color="independent").properties(height=step * len(names))
    )
    return rows if any(row["column"] for row in rows) else [], chart


def _lines(rounds: list[int], lines: Mapping[str, Any], y: alt.Y, tip: str) -> Drawing:
    """Draw one line per name over the rounds, if any has a value."""
    rows = [{"name": name, "round": rounds, **values} for name, values in lines.items()]
    x = alt.X("round:Q", title="round").axis(format="d", tickMinStep=1).scale(zero=False)
    base = _chart(rows, tip).encode(x=x, y=y, color=_colour("name", list(lines)))
    dash = alt.StrokeDash("name:N", title=None).scale(domain=list(lines))
    shown = any(value is not None for row in rows for value in row["value"])
    chart = base.mark_line(aria=False).encode(strokeDash=dash) + _marks(base, list(lines))
    return rows if shown else [], chart


def _chart(rows: Rows, tip: str) -> alt.Chart:
    """Return a chart with one mark per entry of the rows' lists; `tip` formats the tooltip."""
    chart = alt.Chart(_ROWS)
    if lists := [key for row in rows[:1] for key, one in row.items() if isinstance(one, list)]:
        chart = chart.transform_flatten([*lists])
    if "{other}" in tip:
        titles = alt.LookupData(_ROWS, "row", ["title"])
        chart = chart.transform_lookup("column", titles, as_=["other"])
    parts = [
        f"{text!r}" + (f" + {_TEXTS[kind or ''].format(field)}" if field else "")
        for text, field, kind, _ in Formatter().parse(tip)
    ]
    return chart.transform_calculate(tip=" + ".join(parts)).encode(description="tip:N")


def _marks(base: alt.Chart, names: Sequence[str]) -> alt.Chart:
    """Return markers with an invisible rim, so that the pointer finds them."""
    points = base.mark_point(filled=True, size=60, stroke="transparent", strokeWidth=12, opacity=1)
    shape = alt.Shape("name:N", title=None).scale(domain=names)
    return cast(alt.Chart, points.encode(shape=shape))


def _colour(field: str, names: Sequence[str]) -> alt.Color:
    """Return a colour per name, with a legend if there are several."""
    colour = alt.Color(f"{field}:N", title=None).scale(domain=names, range=_COLOURS)
    return colour if len(names) > 1 else colour.legend(None)


def _shaded(title: str, low: float, high: float, numbers: str) -> alt.Color:
    """Return shades from the value `low` to `high`."""
    domain = (low, high if high > low else low + 1)
    colour = alt.Color("value:Q", title=title).scale(type="quantize", domain=domain, range=_SHADES)
    return colour.legend(format=numbers)
