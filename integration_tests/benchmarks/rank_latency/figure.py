"""Seconds of a round over the rank, measured and predicted; the ranks that deadlines give."""

from integration_tests.benchmarks.plotting import COLOURS, MARKERS, Figure, Values, new_figure


def draw(values: Values) -> Figure:
    figure, (rounds, ranks) = new_figure(columns=2)
    deadlines = [each["deadline_s"] for each in values["deadlines"]]
    for at, (name, device) in enumerate(values["classes"].items()):
        colour, marker = COLOURS[at % len(COLOURS)], MARKERS[at % len(MARKERS)]
        candidates = [each["rank"] for each in device["rounds"]]
        measured = [each["round_s"] for each in device["rounds"]]
        predicted = [each["predicted_s"] for each in device["rounds"]]
        rounds.plot(candidates, measured, marker, color=colour, label=name)
        rounds.plot(candidates, predicted, color=colour, linestyle="--", linewidth=1)
        # A class that cannot meet a deadline is left out of the round: rank 0.
        given = [each["ranks"][name] or 0 for each in values["deadlines"]]
        ranks.step(deadlines, given, marker=marker, where="post", color=colour, markersize=4)
    rounds.set_xscale("log", base=2)
    rounds.set_yscale("log")
    rounds.set_xticks(candidates, [str(rank) for rank in candidates])
    rounds.set_xlabel("LoRA rank")
    rounds.set_ylabel("seconds of a round, logarithmic")
    rounds.set_title("marks measured, dashes predicted", fontsize=9)
    rounds.legend(fontsize=9)
    ranks.set_xscale("log")
    ranks.set_yticks([0, *candidates[2:]])
    ranks.set_xlabel("deadline of a round, seconds")
    ranks.set_ylabel("rank given, 0 left out")
    return figure
