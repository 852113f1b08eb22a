"""Tokens per second of the host alone, of sequential calls, and of Floe."""

from integration_tests.benchmarks.plotting import Figure, Values, grouped_bars, new_figure


def draw(values: Values) -> Figure:
    figure, (axes,) = new_figure()
    names = {
        "host alone": "host_tokens_per_s",
        "Floe": "floe_tokens_per_s",
        "one call after\nthe other": "sequential_tokens_per_s",
    }
    rates = [values[key] for key in names.values()]
    grouped_bars(axes, list(names), {"rate": rates}, legend=False)
    for place, rate in enumerate(rates):
        axes.text(place, rate, f"{rate:.2f}", ha="center", va="bottom", fontsize=9)
    axes.set_ylabel("tokens per second")
    return figure
