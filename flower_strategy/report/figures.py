"""Figures with rounds or ranks along the horizontal axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flower_strategy.report.charts import Axes, Point, Series, bar_chart, xy_chart
from flower_strategy.report.figure import Figure, line_legend, series_legend
from flower_strategy.report.text import (
    bytes_text,
    number_text,
    percent_text,
    seconds_text,
    thinned,
)

_ROUND_LABELS = 12
Values = Sequence[float | None]


def loss_figure(data: Mapping[str, Any]) -> Figure:
    """Draw the held-out loss of each cluster."""
    rounds, clusters = data["rounds"], data["clusters"]
    held_out = {name: values["held_out"] for name, values in clusters.items()}
    train = {name: values["train"] for name, values in clusters.items()}

    def tip(name: str, index: int) -> str:
        trained = train[name][index]
        beside = "" if trained is None else f", training loss {number_text(trained)}"
        value = number_text(held_out[name][index])
        return f"{name}, round {rounds[index]}: held-out loss {value}{beside}"

    return Figure(
        name="loss",
        title="Loss per cluster",
        caption="Mean loss on the devices' held-out examples with their cluster's adapter, in nats "
        "per response token, weighted by tokens. Round 0 is before training.",
        drawing=_lines(
            rounds,
            held_out,
            title="Held-out loss of each cluster in each round",
            label="held-out loss",
            text=number_text,
            tip=tip,
        ),
        missing="No held-out loss was measured.",
        legend=_cluster_legend(held_out),
        header=("Round", "Cluster", "Held-out loss", "Training loss"),
        rows=[
            (
                str(entry),
                name,
                number_text(values["held_out"][index], 4),
                number_text(values["train"][index], 4),
            )
            for index, entry in enumerate(rounds)
            for name, values in clusters.items()
        ],
    )


def energy_figure(data: Mapping[str, Any]) -> Figure:
    """Draw the discarded energy of each cluster."""
    rounds, clusters = data["rounds"], data["clusters"]

    def tip(name: str, index: int) -> str:
        return f"{name}, round {rounds[index]}: {percent_text(clusters[name][index])} discarded"

    return Figure(
        name="energy",
        title="Discarded energy per cluster",
        caption="Share of the mean's squared singular values that is cut off at the cluster's "
        "rank, in rounds in which the cluster's adapter moved.",
        drawing=_lines(
            rounds,
            clusters,
            title="Discarded energy of each cluster in each round",
            label="discarded energy",
            text=percent_text,
            tip=tip,
            from_zero=True,
        ),
        missing="No cluster's adapter has moved yet.",
        legend=_cluster_legend(clusters),
        header=("Round", "Cluster", "Discarded energy"),
        rows=[
            (str(entry), name, percent_text(values[index]))
            for index, entry in enumerate(rounds)
            for name, values in clusters.items()
        ],
    )


def communication_figures(data: Mapping[str, Any]) -> list[Figure]:
    """Draw the bytes of each round, and their sum so far."""
    rounds, down, up, total = (data[key] for key in ("rounds", "down", "up", "total"))
    trained = [index for index, entry in enumerate(rounds) if entry > 0]
    header = ("Round", "Down", "Up", "Total so far")
    rows = [
        (str(rounds[i]), bytes_text(down[i]), bytes_text(up[i]), bytes_text(total[i]))
        for i in trained
    ]
    missing = "No round has sent an adapter yet."
    moved = bool(total) and total[-1] > 0
    stacks = [
        (
            float(rounds[i]),
            [
                (0, down[i], f"round {rounds[i]}: {bytes_text(down[i])} down to the devices"),
                (1, up[i], f"round {rounds[i]}: {bytes_text(up[i])} up to the server"),
            ],
        )
        for i in trained
    ]
    per_round = Axes(
        title="Bytes of adapters sent down and up in each round",
        x_label="round",
        y_label="bytes",
        x_ticks=_round_ticks([rounds[i] for i in trained]),
        x_range=_room([rounds[i] for i in trained], margin=0.6),
        y_text=bytes_text,
        from_zero=True,
    )

    def tip(_: str, index: int) -> str:
        return f"up to round {rounds[index]}: {bytes_text(total[index])}"

    return [
        Figure(
            name="communication",
            title="Communication per round",
            caption="Bytes of the adapters sent to the devices for training, and of those that "
            "came back.",
            drawing=bar_chart(per_round, stacks) if moved else "",
            missing=missing,
            legend=series_legend([("down", 0), ("up", 1)]),
            header=header,
            rows=rows,
        ),
        Figure(
            name="communication-total",
            title="Communication, total",
            caption="Bytes down and up of all rounds so far.",
            drawing=_lines(
                rounds,
                {"total": total},
                title="Bytes of adapters sent so far, after each round",
                label="bytes so far",
                text=bytes_text,
                tip=tip,
                from_zero=True,
            )
            if moved
            else "",
            missing=missing,
        ),
    ]


def latency_figure(data: Mapping[str, Any]) -> Figure:
    """Draw observed and predicted seconds over the rank, one colour per device class."""
    ranks, classes, deadline = data["ranks"], data["classes"], data["deadline_seconds"]
    series = []
    for style, (kind, points) in enumerate(classes.items()):
        # Classes at one rank stand side by side, not on top of each other.
        shift = 0.3 * ((style + 0.5) / len(classes) - 0.5)
        places = [ranks.index(point["rank"]) + shift for point in points]
        pairs = list(zip(places, points, strict=True))
        predicted = [Point(x, point["predicted"]) for x, point in pairs]
        observed = [Point(x, point["observed"], _latency_tip(kind, point)) for x, point in pairs]
        spans = [
            (x, point["least"], point["greatest"])
            for x, point in pairs
            if point["least"] is not None
        ]
        series.append(Series(style=style, points=predicted, marks=False, dashed=True))
        series.append(Series(style=style, points=observed, spans=spans))
        # A single prediction has no line: it gets a tick.
        series += [
            Series(
                style=style,
                points=[Point(p.x - 0.08, p.y), Point(p.x + 0.08, p.y)],
                marks=False,
            )
            for p in predicted
        ]
    axes = Axes(
        title="Seconds of a round by rank for each device class, observed and predicted",
        x_label="rank",
        y_label="seconds of a round",
        x_ticks=[(float(index), str(rank)) for index, rank in enumerate(ranks)],
        x_range=(-0.5, max(len(ranks), 1) - 0.5),
        y_text=number_text,
        from_zero=True,
        level=None if deadline is None else (deadline, f"deadline {seconds_text(deadline)}"),
    )
    legend = series_legend((kind, style) for style, kind in enumerate(classes))
    legend.append(line_legend("observed", dashed=False))
    legend.append(line_legend("predicted", dashed=True))
    return Figure(
        name="latency",
        title="Latency against rank",
        caption="Seconds of training and upload in a round, by rank and device class: a marker is "
        "the mean of what was observed, its vertical line goes from the least to the greatest, a "
        "horizontal tick is the prediction.",
        drawing=xy_chart(axes, series) if classes else "",
        missing="No device has trained yet.",
        legend=legend,
        header=("Device", "Rank", "Rounds", "Observed", "Least", "Greatest", "Predicted"),
        rows=[
            (
                kind,
                str(point["rank"]),
                str(point["count"]),
                *(
                    seconds_text(point[key])
                    for key in ("observed", "least", "greatest", "predicted")
                ),
            )
            for kind, points in classes.items()
            for point in points
        ],
    )


def _latency_tip(kind: str, point: Mapping[str, Any]) -> str:
    spread = f"{seconds_text(point['least'])} to {seconds_text(point['greatest'])}"
    return (
        f"{kind}, rank {point['rank']}: observed {seconds_text(point['observed'])} "
        f"({spread}, {point['count']} device rounds), predicted {seconds_text(point['predicted'])}"
    )


def _lines(
    rounds: Sequence[int],
    lines: Mapping[str, Values],
    *,
    title: str,
    label: str,
    text: Callable[[float], str],
    tip: Callable[[str, int], str],
    from_zero: bool = False,
) -> str:
    """Draw one line per name over the rounds; nothing where no line has a value."""
    known = [
        index
        for index in range(len(rounds))
        if any(values[index] is not None for values in lines.values())
    ]
    if not known:
        return ""
    shown = [rounds[index] for index in known]
    axes = Axes(
        title=title,
        x_label="round",
        y_label=label,
        x_ticks=_round_ticks(shown),
        x_range=_room(shown),
        y_text=text,
        from_zero=from_zero,
    )
    series = [
        Series(
            style=style,
            points=[Point(rounds[index], values[index], tip(name, index)) for index in known],
        )
        for style, (name, values) in enumerate(lines.items())
    ]
    return xy_chart(axes, series)


def _room(rounds: Sequence[int], margin: float = 0.03) -> tuple[float, float]:
    """Return the ends of an axis of rounds; the margin is of the span below 1, of a round above."""
    low, high = min(rounds, default=0), max(rounds, default=0)
    side = margin if margin > 0.5 else max(margin * (high - low), 0.0)
    side = side or 0.5
    return low - side, high + side


def _round_ticks(rounds: Sequence[int]) -> list[tuple[float, str]]:
    return [(float(entry), str(entry)) for entry in thinned(sorted(rounds), most=_ROUND_LABELS)]


def _cluster_legend(clusters: Mapping[str, Any]) -> list[str]:
    return series_legend((name, style) for style, name in enumerate(clusters))
