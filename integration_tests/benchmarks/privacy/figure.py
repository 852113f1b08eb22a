"""Private spans and bytes that left, one bar per way to answer."""

from integration_tests.benchmarks.plotting import COLOURS, HATCHES, Figure, Values, new_figure


def draw(values: Values) -> Figure:
    figure, (spans, sent) = new_figure(2)
    names = list(values["systems"])
    panels = (
        (spans, "spans_left", 1, f"private spans that left, of {values['spans']}"),
        (sent, "bytes", 1000, "kilobytes that left"),
    )
    for axes, key, unit, label in panels:
        heights = [values["systems"][name][key] / unit for name in names]
        bars = axes.bar(names, heights, color=COLOURS[: len(names)], edgecolor="white")
        for bar, hatch in zip(bars, HATCHES, strict=False):
            bar.set_hatch(hatch)
        axes.bar_label(bars, [f"{height:,.0f}" for height in heights], fontsize=9)
        axes.set_ylabel(label)
        axes.tick_params(axis="x", rotation=35)
    return figure
