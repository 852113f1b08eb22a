"""Tokens per second over plain vLLM and over the slower of the two, and by who drafts."""

from integration_tests.benchmarks.plotting import (
    Axes,
    Figure,
    Values,
    grouped_bars,
    lines,
    new_figure,
    reference,
)


def draw(values: Values) -> Figure:
    figure, (axes, *more) = new_figure(columns=2 if "drafts" in values else 1)
    _overlap(axes, values)
    for each in more:
        _drafts(each, values["drafts"])
    return figure


def _overlap(axes: Axes, values: Values) -> None:
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


def _drafts(axes: Axes, found: Values) -> None:
    cases = found["cases"]
    texts = list(dict.fromkeys(case["text"] for case in cases))
    ways = list(dict.fromkeys(case["way"] for case in cases))
    ratios = {(case["way"], case["text"]): case["ratio"] for case in cases}
    grouped_bars(axes, texts, {way: [ratios[way, text] for text in texts] for way in ways})
    axes.set_xlabel(f"text, the expert {found['latency_over_step']:g} steps away")
    axes.set_ylabel("tokens per second, over one token a call")
