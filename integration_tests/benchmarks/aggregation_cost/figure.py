"""Seconds of the factored and of the dense way, and of one copy of the factors."""

from integration_tests.benchmarks.plotting import Figure, Values, grouped_bars, new_figure


def draw(values: Values) -> Figure:
    figure, (axes,) = new_figure()
    cases = values["cases"]
    series = {"dense": "dense_s", "Floe, factored": "factored_s", "one copy (floor)": "floor_s"}
    grouped_bars(
        axes,
        [f"{case['m']}x{case['n']}\n{case['clients']} replies" for case in cases],
        {name: [case[key] for case in cases] for name, key in series.items()},
    )
    axes.set_yscale("log")
    axes.set_ylabel("seconds, logarithmic")
    return figure
