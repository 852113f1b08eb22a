"""The table, and what the figures say."""

import statistics

from integration_tests.benchmarks.cli import Namespace, Result, Values


def result(values: Values, _: Namespace) -> Result:
    """Return one row per class and rank."""
    keys = ("rank", "training_s", "upload_s", "round_s", "predicted_s")
    return Result(
        header=["class", "rank", "training, s", "upload, s", "round, s", "predicted, s", "off, %"],
        rows=[
            [
                name,
                *(each[key] for key in keys),
                f"{each['error_percent']:+.1f}" + (" (fitted)" if each["fitted"] else ""),
            ]
            for name, device in values["classes"].items()
            for each in device["rounds"]
        ],
        remarks=_remarks(values),
    )


def _remarks(values: Values) -> list[str]:
    ranks = [int(rank) for rank in values["step_seconds"]]
    steps = {rank: statistics.median(values["step_seconds"][str(rank)]) for rank in ranks}
    low, high = ranks[0], ranks[-1]
    found = [
        f"A step of {values['batch_size']} x {values['max_length']} tokens takes "
        f"{steps[low]:.2f} s at rank {low} and {steps[high]:.2f} s at rank {high}, "
        f"{steps[high] / steps[low]:.2f} times as long; an adapter's upload grows "
        f"{high / low:.0f} times, from {values['upload_bytes'][str(low)] / 1e6:.1f} to "
        f"{values['upload_bytes'][str(high)] / 1e6:.1f} MB. Each rank was trained "
        f"{values['repeats']} times for {values['local_steps']} steps; medians."
    ]
    rounds = [each for device in values["classes"].values() for each in device["rounds"]]
    between = [abs(each["error_percent"]) for each in rounds if not each["fitted"]]
    single = values["single_probe_error_percent"]
    if between:
        found.append(
            "Rounds at the ranks between, which are not probed, are predicted within "
            f"{max(between):.1f} % (mean {statistics.fmean(between):.1f} %) by the line through "
            f"ranks {low} and {high}, fitted to the medians of the probes; a step alone, predicted "
            f"by one probe as a device makes it, is off by {single['least']:+.1f} to "
            f"{single['most']:+.1f} %."
        )
    for name, device in values["classes"].items():
        last = device["rounds"][-1]
        found.append(
            f"{name}: {last['upload_s'] / last['round_s'] * 100:.0f} % of a round at rank {high} "
            f"is upload; the round takes {last['round_s'] / device['rounds'][0]['round_s']:.2f} "
            f"times as long as at rank {low}."
        )
    same = values["homogeneous"]
    given = ", ".join(f"{name} {rank}" for name, rank in same["ranks"].items())
    found.append(
        f"With the deadline that the policy finds by itself ({same['deadline_s']:.0f} s) ranks are "
        f"{given}, and the round takes {same['round_s']:.1f} s; with rank {high} on all devices it "
        f"would take {same['homogeneous_s']:.1f} s, {same['ratio']:.2f} times as long, since all "
        f"wait for {same['slowest']}."
    )
    found.append(_deadlines(values))
    return found


def _deadlines(values: Values) -> str:
    parts = []
    for name in values["classes"]:
        reached: dict[int | None, float] = {}
        for each in values["deadlines"]:
            reached.setdefault(each["ranks"][name], each["deadline_s"])
        told = [f"rank {rank} from {first:.0f} s" for rank, first in reached.items() if rank]
        parts.append(f"{name} {', '.join(told) or 'none'}")
    tried = values["deadlines"]
    return (
        f"Of {len(tried)} deadlines from {tried[0]['deadline_s']:.0f} to "
        f"{tried[-1]['deadline_s']:.0f} s, the first that gives a class a rank: {'; '.join(parts)}."
    )
