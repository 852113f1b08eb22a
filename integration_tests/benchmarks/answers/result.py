"""The table, and what the figures say."""

from pathlib import Path
from typing import Any

from integration_tests.benchmarks.answers.servers import FLOE, LLM, SLM, TIMED
from integration_tests.benchmarks.answers.systems import FITTING, HINDSIGHT, NO_ADAPTER, ROUTER
from integration_tests.benchmarks.cli import Namespace, Result, Table, Values

_HEADER = (
    *("system", "task", "n", "exact match", "95 % interval", "token F1"),
    *("ms per answer", "CPU-s per answer", "bytes that left"),
)


def result(values: Values, _: Namespace) -> Result:
    """Return a row per system and task, and one per system over all tasks, with its costs.

    What an answer costs is known over all tasks only: of each, few items are asked alone.
    """
    return Result(
        header=_HEADER,
        rows=_rows(values),
        remarks=_remarks(values),
        others=[_right(values)] if values["others"] else [],
    )


def _right(values: Values) -> Table:
    """Return the right answers of every LLM and every form of the prompts, a row per task."""
    systems = list(dict.fromkeys(cell["system"] for cell in values["cells"]))
    tested = (FLOE, FITTING)
    header = ["LLM", "shots", "task", "n", *systems]
    header += [f"{system} : better of llm and slm" for system in tested]
    rows = []
    for one in (values, *values["others"]):
        right = {(cell["system"], cell["task"]): cell for cell in one["cells"]}
        pairs = {(pair["system"], pair["task"]): pair for pair in one["against_better"]}
        about = [Path(one["llm"]).name, one["shots"]]
        for task in one["tasks"]:
            name = task["name"]
            rows.append(
                [
                    *(*about, name, task["items"]),
                    *(right[system, name]["right"] for system in systems),
                    *(_sign_test(pairs[system, name]) for system in tested),
                ]
            )
        totals = {total["system"]: total for total in one["totals"]}
        items = totals[FLOE]["n"]
        rows.append([*about, "all", items, *(totals[each]["right"] for each in systems), "", ""])
    return Table(
        caption="Right answers by LLM and by the number of solved examples before each prompt. In "
        "the last columns, 6 : 0 says that the system has 6 items right that the better of LLM and "
        "SLM on this task has not, and this one none that the system has not; with the p-value of "
        "a sign test.",
        header=header,
        rows=rows,
    )


def _sign_test(pair: Values) -> str:
    return f"{pair['system_only']} : {pair['other_only']}, p {pair['p_value']:.2g}"


def _rows(values: Values) -> list[list[Any]]:
    groups = {True: "in", False: "out"}
    costs = values["costs"]
    return [
        *(_row(one, f"{one['task']} ({groups[one['in_task']]})", None) for one in values["cells"]),
        *(_row(one, "all", costs.get(one["system"])) for one in values["totals"]),
        *(
            [system, "all", "-", "-", "-", "-", *_priced(costs[system])]
            for system in TIMED
            if system in costs
        ),
    ]


def _row(figure: Values, task: str, cost: Values | None) -> list[Any]:
    interval = f"{figure['low']:.2f} to {figure['high']:.2f}"
    own = [figure["system"], task, figure["n"], figure["exact_match"], interval, figure["f1"]]
    if cost is None:
        return [*own, "-", "-", "-"]
    return [*own, *_priced(cost)]


def _priced(cost: Values) -> list[Any]:
    return [f"{cost['latency_ms']:.0f}", cost["cpu_seconds"], f"{cost['bytes_left']:.0f}"]


def _remarks(values: Values) -> list[str]:
    figures = {(one["task"], one["system"]): one for one in values["cells"]}
    names = [task["name"] for task in values["tasks"]]
    found = []
    for key, word in (("exact_match", "exact match"), ("f1", "token F1")):
        places: dict[str, list[str]] = {}
        for name in names:
            floe, slm, llm = (figures[name, system][key] for system in (FLOE, SLM, LLM))
            places.setdefault(_place(floe, slm, llm), []).append(name)
        told = "; ".join(f"{place} on {', '.join(tasks)}" for place, tasks in places.items())
        found.append(f"By {word}, Floe against SLM and LLM: {told}.")
    found.append("Against the better of the two alone, by task: " + _against_better(values))
    for group, systems in values["means"].items():
        both = ((name, each["exact_match"], each["f1"]) for name, each in systems.items())
        told = ", ".join(f"{name} {exact:.2f} ({f1:.2f})" for name, exact, f1 in both)
        found.append(f"Mean exact match (token F1) {group}: {told}.")
    compared = map(_compared, values["paired"])
    return [*found, *compared, *_of_choosers(values), *_of_costs(values)]


def _against_better(values: Values) -> str:
    return (
        "; ".join(
            f"{each['task']} ({each['other']}) {each['system_only']} to {each['other_only']} of "
            f"{each['items']}, p = {each['p_value']:.2g}"
            for each in values["against_better"]
            if each["system"] == FLOE
        )
        + " (items that one alone has right, sign test)."
    )


def _place(floe: float, slm: float, llm: float) -> str:
    if floe > max(slm, llm):
        return "above both"
    if floe < min(slm, llm):
        return "below both"
    return "level with the better" if floe == max(slm, llm) else "between"


def _compared(pair: Values) -> str:
    return (
        f"Against {pair['other']}, over {pair['items']} items: Floe alone right on "
        f"{pair['system_only']}, {pair['other']} alone on {pair['other_only']} (sign test, "
        f"p = {pair['p_value']:.2g}); token F1 {pair['f1_difference']:+.3f}, 95 % interval "
        f"{pair['f1_low']:+.3f} to {pair['f1_high']:+.3f}."
    )


def _of_choosers(values: Values) -> list[str]:
    shares = ", ".join(
        f"{task['name']} {task['router_llm_share']:.0%}/{task['cascade_llm_share']:.0%}"
        for task in values["tasks"]
    )
    fitting = ", ".join(
        f"{task['name']} {task['items'] - task['adapters'].get(NO_ADAPTER, 0)} of {task['items']}"
        for task in values["tasks"]
    )
    threshold = values["cascade_threshold"]
    told = "none" if threshold is None else f"{threshold:.3f} nats per token"
    fusion = values["fusion"]
    return [
        f"Share of prompts that {ROUTER}/cascade gave to the LLM: {shares}; the cascade's "
        f"threshold, fitted on {values['fitted_items']} other items: {told}.",
        f"{HINDSIGHT} takes the better of SLM and LLM per prompt, which no router can know.",
        f"Prompts that an adapter fits: {fitting}; {FITTING} leaves the others to the LLM alone.",
        f"Fused tokens: {fusion['fused_share']:.1%}; late calls: {fusion['late']} of "
        f"{fusion['tokens']}; mean weight of the SLM: {fusion['expert_weight']:.2f}.",
    ]


def _of_costs(values: Values) -> list[str]:
    floe, llm = (values["costs"][system] for system in (FLOE, LLM))
    idle = ", ".join(f"{name} {share:.2f}" for name, share in values["idle_cpu"].items())
    energy = (
        "Joules per answer (all packages, idle power included): "
        + ", ".join(f"{name} {cost['joules']:.1f}" for name, cost in values["costs"].items())
        if floe["joules"] is not None
        else "RAPL cannot be read here, so energy is told in processor seconds alone"
    )
    return [
        f"One request at a time, {values['timed_items']} items: an answer of Floe takes "
        f"{floe['latency_ms'] / llm['latency_ms']:.1f} times the LLM's seconds and "
        f"{floe['cpu_seconds'] / llm['cpu_seconds']:.1f} times its processor seconds; "
        f"{floe['bytes_left'] / llm['bytes_left']:.0f} times the bytes leave the device.",
        f"Processor seconds per second that the idle servers take: {idle}.",
        energy + ".",
    ]
