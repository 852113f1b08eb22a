"""Tokens per second over plain vLLM, and over the slower of the two."""

from integration_tests.benchmarks.plotting import Figure, Values, lines, new_figure, reference


def draw(values: Values) -> Figure:
    figure, (axes,) = new_figure()
    cases = values["cases"]
    lines(
        axes,
        [case["latency_over_step"] for case in cases],
        {
            "over plain vLLM": [case["throughput_ratio"] for case in cases],
            "over the slower of the two": [case["of_slower"] for case in cases],
        },
    )
    reference(axes, 0.95, "aim over plain vLLM, up to 0.8 steps")
    axes.set_xlabel("the expert's latency, in steps of the host")
    axes.set_ylabel("tokens per second, ratio")
    axes.set_ylim(0, 1.1)
    return figure
