"""The table, and the gate compared with its targets."""

from typing import Any

from integration_tests.benchmarks.cli import Namespace, Result, Values
from integration_tests.benchmarks.gate.measure import CHARS

#: The targets for prompts.
LEAST_RECALL, MOST_ALARMS = 0.95, 0.05


def result(values: Values, _: Namespace) -> Result:
    """Return one column for the gate and one per other tool."""
    columns = {"gate": values, **values["peers"]}
    single = ("prompt_recall", "false_alarm_rate", "f2", "p50_ms", "p99_ms")
    rows: list[list[Any]] = [
        [name, *("-" if tool[name] is None else tool[name] for tool in columns.values())]
        for name in single
    ]
    others = ["" for _ in values["peers"]]
    rows.append(["seconds_per_mb", values["seconds_per_mb"], *others])
    rows += [
        [f"recall {label}", *(tool["recall"][label] for tool in columns.values())]
        for label in values["recall"]
    ]
    for profile, own in values["profiles"].items():
        rows += [
            [f"{profile}: {name}", "-" if own[name] is None else own[name], *others]
            for name in ("prompt_recall", "exposing_recall", "false_alarm_rate", "kept_parts")
        ]
        rows += [
            [f"{profile}: held back, {source}", share, *others]
            for source, share in own["held_back"].items()
        ]
    remarks = [f"Times are per {CHARS} characters."]
    recall, alarms = values["prompt_recall"], values["false_alarm_rate"]
    if recall is not None and alarms is not None:
        met = recall >= LEAST_RECALL and alarms <= MOST_ALARMS
        said = (
            f"recall of private prompts {recall:.3f} at {100 * alarms:.1f} % false alarms (target: "
            f"{LEAST_RECALL} at most {100 * MOST_ALARMS:g} %, {'met' if met else 'missed'}); "
            f"{values['p50_ms']:.2f} ms in the middle, {values['p99_ms']:.2f} ms for 99 of 100."
        )
        remarks.insert(0, f"As the profile strict judges: {said}")
    own = values["profiles"]["personal"]
    held, exposing = own["held_back"].get("all"), own["exposing_recall"]
    if held is not None and exposing is not None:
        remarks.insert(
            0,
            f"By default (personal), {100 * held:.1f} % of ordinary prompts are held back, and "
            f"{exposing:.3f} of {own['exposing']} prompts with contact data, ids, cards, secrets "
            "or a street address.",
        )
    return Result(header=["", *columns], rows=rows, remarks=remarks)
