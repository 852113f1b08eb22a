"""Milliseconds of a step, and bytes sent per token, by server and size."""

from integration_tests.benchmarks.plotting import Figure, Values, grouped_bars, new_figure


def draw(values: Values) -> Figure:
    figure, (times, sizes) = new_figure(columns=2)
    cases = values["cases"]
    servers = list(dict.fromkeys(case["server"] for case in cases))
    keys = ("context", "streams", "k")
    groups = list(dict.fromkeys(tuple(case[key] for key in keys) for case in cases))
    found = {(case["server"], *(case[key] for key in keys)): case for case in cases}
    labels = [f"{context}, {streams} x K {k}" for context, streams, k in groups]

    def series(key: str) -> dict[str, list[float]]:
        return {name: [found[name, *group][key] for group in groups] for name in servers}

    grouped_bars(times, labels, series("ms_per_step"))
    times.set_ylabel("milliseconds a step")
    grouped_bars(sizes, labels, series("bytes_up"), legend=False)
    sizes.set_yscale("log")
    sizes.set_ylabel("bytes up a step, logarithmic")
    for axes in (times, sizes):
        axes.set_xlabel("tokens of context, streams, K")
    return figure
