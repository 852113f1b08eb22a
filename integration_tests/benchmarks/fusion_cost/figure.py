"""Time of a step's fusion over that of log_softmax of the same rows."""

from integration_tests.benchmarks import plotting


def draw(values: plotting.Values) -> plotting.Figure:
    figure, (axes,) = plotting.new_figure()
    cases = values["cases"]
    groups = list(dict.fromkeys((case["vocabulary"], case["rows"]) for case in cases))
    ratios = {(case["vocabulary"], case["rows"], case["k"]): case["ratio"] for case in cases}
    plotting.grouped_bars(
        axes,
        [f"{rows} row{'s' * (rows > 1)}\n{vocabulary:,}" for vocabulary, rows in groups],
        {
            f"K = {k:,}": [ratios[(*group, k)] for group in groups]
            for k in dict.fromkeys(case["k"] for case in cases)
        },
    )
    plotting.reference(axes, values["aim"], "aim at 8 and 32 rows")
    axes.set_ylabel("fusion over log_softmax")
    return figure
