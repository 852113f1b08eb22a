"""Recall, false alarms and time of the gate and of other tools."""

from integration_tests.benchmarks.plotting import Figure, Values, grouped_bars, new_figure


def draw(values: Values) -> Figure:
    figure, (shares, times) = new_figure(2, size=(8.0, 4.0))
    judges = {**values["profiles"], **values["peers"]}
    series = {
        "recall of prompts": [judge["prompt_recall"] or 0.0 for judge in judges.values()],
        "false alarms": [judge["false_alarm_rate"] or 0.0 for judge in judges.values()],
        "ordinary prompts held back": [
            judge.get("held_back", {}).get("all") or 0.0 for judge in judges.values()
        ],
    }
    grouped_bars(shares, [name.replace("-", "\n") for name in judges], series)
    shares.set_ylabel("share of prompts")
    tools = {"gate": values, **values["peers"]}
    names = [name.replace("-", "\n") for name in tools]
    grouped_bars(
        times,
        names,
        {
            "median": [tool["p50_ms"] for tool in tools.values()],
            "99 of 100": [tool["p99_ms"] for tool in tools.values()],
        },
    )
    times.set_yscale("log")
    times.set_ylabel("ms per 500 characters, logarithmic")
    for axes in (shares, times):
        axes.tick_params(axis="x", labelsize=9)
    return figure
