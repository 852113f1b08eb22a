"""Milliseconds of a step's parts over its rows."""

from integration_tests.benchmarks import plotting


def draw(values: plotting.Values) -> plotting.Figure:
    figure, (axes,) = plotting.new_figure()
    cases = [case for case in values["cases"] if case["k"] == values["cases"][0]["k"]]
    trusted = [case for case in cases if not case["gated"]]
    gated = {case["rows"]: case["begin_ms"] for case in cases if case["gated"]}
    plotting.grouped_bars(
        axes,
        [f"{case['rows']} row{'s' * (case['rows'] > 1)}" for case in trusted],
        {
            "begin, trusted": [case["begin_ms"] for case in trusted],
            "begin, gated": [gated[case["rows"]] for case in trusted],
            "decide": [case["decide_ms"] for case in trusted],
            "call": [case["calls_ms"] for case in trusted],
        },
    )
    axes.set_yscale("log")
    axes.set_ylabel("processor milliseconds per step")
    return figure
