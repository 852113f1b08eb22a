"""The table, and what the figures say."""

from typing import Any

from integration_tests.benchmarks.cli import Namespace, Result, Values

_HEADER = ("what", "number", "seconds", "ms each", "peak MiB", "MB up", "MB down")


def result(values: Values, _: Namespace) -> Result:
    """Return one row per run, per rank of a reply, and per expert call."""
    remarks = [*_federated(values), *_serving(values)]
    return Result(header=_HEADER, rows=_rows(values), remarks=remarks)


def _rows(values: Values) -> list[list[Any]]:
    found: list[list[Any]] = []
    for run in values["runs"]:
        number = run["devices"]
        total = sum(run["seconds"].values())
        what = f"run, {values['blocks']} of {values['all_blocks']} blocks"
        peak, size = f"{max(run['peak_mib'].values()):.0f}", run["bytes_up"] / 1e6
        found.append([what, number, total, 1000 * total / number, peak, size, size])
        for stage in ("clustering", "replies", "export"):
            seconds = run["seconds"][stage]
            peak = run["peak_mib"].get(stage)
            cells = ["" if peak is None else f"{peak:.0f}", "", ""]
            found.append([f"  {stage}", number, seconds, 1000 * seconds / number, *cells])
    for reply in values["whole"]["replies"]:
        size = reply["bytes"] / 1e6
        cells = [reply["seconds"], 1000 * reply["seconds"], "", size, size]
        found.append([f"reply of rank {reply['rank']}, all blocks", 1, *cells])
    for call in values["calls"]:
        cells = [call["seconds"], 1000 * call["seconds"] / call["streams"], ""]
        sizes = [call["bytes_up"] / 1e6, call["bytes_down"] / 1e6]
        found.append([f"expert call, K = {call['k']}", call["streams"], *cells, *sizes])
    for fusion in values["fusion"]:
        cells = [fusion["row_ms"] * fusion["rows"] / 1000, fusion["row_ms"], "", "", ""]
        found.append([f"fusion, K = {fusion['k']}", fusion["rows"], *cells])
    return found


def round_seconds(values: Values, run: Values) -> float:
    """Return the processor seconds of a run's training round with all blocks.

    Replies and means are reckoned from their cost at the model's real size; the other stages do
    not depend on it, or hardly.
    """
    whole = values["whole"]
    cost = {str(reply["rank"]): reply["seconds"] for reply in whole["replies"]}
    replies = sum(cost[rank] * count for rank, count in run["ranks"].items())
    rest = sum(
        seconds
        for stage, seconds in run["seconds"].items()
        if stage in ("sending", "next ranks", "checkpoint")
    )
    return float(replies + run["clusters"] * whole["result_s"] + rest)


def _federated(values: Values) -> list[str]:
    runs, whole = values["runs"], values["whole"]
    last = runs[-1]
    number, ranks = last["devices"], last["ranks"]
    given = ", ".join(f"rank {rank} x {count}" for rank, count in ranks.items())
    memory = [tenth["resident_mib"] for tenth in last["tenths"]]
    # The first replies fill the sums.
    settled = memory[len(memory) // 2 :]
    growth = settled[-1] - settled[0]
    first, end = last["tenths"][1], last["tenths"][-1]
    slower = end["seconds_each"] / first["seconds_each"]
    mean_gb = whole["mean_bytes"] / 1e9
    found = [
        f"{number} devices in {last['clusters']} clusters ({given}), {last['replies']} replies "
        f"folded in one by one by the real strategy: over the second half of them the process grew "
        f"by {growth:.0f} MiB, {1024 * growth / (number / 2):.1f} KiB a reply, where an adapter of "
        f"that size takes {last['bytes_up'] / number / 1024:.0f} KiB.",
        f"With all {values['all_blocks']} blocks a sum holds {mean_gb:.2f} GB per cluster, "
        f"{last['clusters'] * mean_gb:.1f} GB for {last['clusters']}, whatever the number of "
        f"replies; a round of {number} devices takes the server "
        f"{round_seconds(values, last):.0f} processor seconds on one core "
        f"({number / round_seconds(values, last):.0f} devices a second), reckoned from the cost "
        f"of a reply, and moves {last['bytes_whole_model'] / 1e9:.0f} GB up and as much down.",
        f"In the last tenth of {number} replies one takes {1000 * end['seconds_each']:.1f} ms, "
        f"{slower:.1f} times as long as in the second tenth.",
    ]
    shares = {
        part: sum(reply[f"{part}_s"] for reply in whole["replies"])
        / sum(reply["seconds"] for reply in whole["replies"])
        for part in ("read", "judge", "fold")
    }
    found.append(
        f"Of a reply's seconds, all ranks alike, {shares['read']:.0%} go into decoding and "
        f"checking, {shares['judge']:.0%} into the length of its update, {shares['fold']:.0%} into "
        "folding it in."
    )
    clustering = [
        f"{run['devices']}: {run['seconds']['clustering']:.1f} s and "
        f"{run['peak_mib'].get('clustering', 0) / 1024:.1f} GiB"
        for run in runs
    ]
    found.append(
        f"Clustering, once, by devices: {'; '.join(clustering)}." + _growth(runs, "clustering")
    )
    found.append(
        f"The checkpoint after one round of {number} devices has "
        f"{last['checkpoint_bytes'] / 1e6:.1f} MB, {last['checkpoint_state_bytes'] / 1e6:.1f} of "
        f"them state.json, which every further round makes "
        f"{last['history_bytes_per_round'] / 1e6:.1f} MB longer: after 100 rounds it would have "
        f"{(last['checkpoint_state_bytes'] + 99 * last['history_bytes_per_round']) / 1e6:.0f} MB, "
        "written anew after each."
    )
    for stage in ("sending", "replies", "export"):
        if said := _growth(runs, stage):
            found.append(f"Stage '{stage}':{said}")
    return found


def _growth(runs: list[Values], stage: str) -> str:
    """Say by how much more a stage takes than the devices are more."""
    if len(runs) < 2:
        return ""
    first, last = runs[0], runs[-1]
    more = last["devices"] / first["devices"]
    longer = last["seconds"][stage] / max(first["seconds"][stage], 1e-9)
    return f" {more:.0f} times the devices take {longer:.0f} times the seconds."


def _serving(values: Values) -> list[str]:
    most = max(call["streams"] for call in values["calls"])
    forward = values["forward_ms"]
    steps = 1000 / forward
    found = []
    for call in values["calls"]:
        if call["streams"] != most:
            continue
        fusion = next(each["row_ms"] for each in values["fusion"] if each["k"] == call["k"])
        each = 1000 * call["seconds"] / most
        found.append(
            f"K = {call['k']}: {most} streams in one process make {steps:.0f} calls a second at "
            f"steps of {forward:g} ms, {call['bytes_up'] / 1e6:.1f} MB up and "
            f"{call['bytes_down'] / 1e6:.1f} MB down each, "
            f"{8 * steps * call['bytes_up'] / 1e9:.2f} and "
            f"{8 * steps * call['bytes_down'] / 1e9:.2f} Gbit/s. A stream costs {each:.2f} ms of "
            f"the thread that asks and {fusion:.2f} ms of fusion: beyond "
            f"{int(forward / each)} streams the asking, beyond {int(forward / fusion)} the fusion "
            f"takes longer than the forward pass, beyond {int(forward / (each + fusion))} the two "
            "together, which share one interpreter."
        )
    return found
