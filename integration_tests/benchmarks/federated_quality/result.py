"""Mean and spread over seeds: the table, and what it says."""

from collections.abc import Mapping, Sequence
from typing import Any

from integration_tests.benchmarks.cli import Namespace, Result, Values
from integration_tests.benchmarks.federated_quality.ablation import ablation_remarks
from integration_tests.benchmarks.federated_quality.measure import Levels

_HEADER = (
    *("level", "method", "held-out loss", "less floe's", "better than alone"),
    *("rounds", "steps", "idle", "MB up", "MB down"),
)
_REFERENCE = "floe"


_Better = Mapping[str, Mapping[str, Sequence[int]]]
"""Level -> method -> devices that it serves better than training alone, and of how many."""


def result(values: Values, _: Namespace) -> Result:
    """Return one row per level and method, lowest loss first; a column without entries is left out.

    A published run may be older than what is compared beside the levels.
    """
    levels, better = values["levels"], values.get("devices_better", {})
    found = rows(levels, better)
    kept = [at for at in range(len(_HEADER)) if any(row[at] for row in found)]
    return Result(
        header=[_HEADER[at] for at in kept],
        rows=[[row[at] for at in kept] for row in found],
        remarks=[
            *conclusions(levels, better),
            *ablation_remarks(values.get("ablation", {})),
            *_energy(values.get("energy_above", {}), values["protocol"]),
            *_curve(values.get("budget_curve", {})),
            *_few(values.get("few_examples", {"levels": {}})),
            _terms(values),
        ],
    )


def _energy(
    energy: Mapping[str, Mapping[str, Sequence[float]]], protocol: Mapping[str, Any]
) -> list[str]:
    return [
        f"Level {level}, energy of the server's mean above rank {min(protocol['ranks'])}, round by "
        "round: "
        + "; ".join(
            f"{name} {', '.join(f'{share:.3f}' for share in shares)}"
            for name, shares in methods.items()
        )
        + "."
        for level, methods in energy.items()
    ]


def _curve(curve: Mapping[str, Levels]) -> list[str]:
    found: dict[str, list[str]] = {}
    for budget, levels in curve.items():
        for level, methods in levels.items():
            found.setdefault(level, []).append(f"with {budget} {_losses(methods)}")
    return [f"Level {level}, virtual seconds: {'; '.join(each)}." for level, each in found.items()]


def _few(few: Mapping[str, Any]) -> list[str]:
    return [
        f"Level {level}, devices of {few['examples']} examples: {_losses(methods)}"
        f"{_kept(methods.get(_REFERENCE, {}))}."
        for level, methods in few["levels"].items()
    ]


def _kept(figures: Mapping[str, Any]) -> str:
    counts = [f"{count} {name}" for name, count in figures.get("keeps", {}).items()]
    return f"; of Floe's devices keep {', '.join(counts)}" if counts else ""


def _losses(methods: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} {figures['loss_mean']:.3f}" for name, figures in methods.items())


def _terms(values: Values) -> str:
    terms = values["protocol"]
    named = " and ".join(terms["data"]) if isinstance(terms["data"], dict) else terms["data"]
    base, slope = terms["step_seconds"]
    filled = any(name.endswith(":filled") for one in values["levels"].values() for name in one)
    steps = f", with :filled as many as fit {terms['merges']} rounds" if filled else ""
    return (
        f"Mean held-out loss over {terms['clients']} devices ({', '.join(terms['devices'])} in "
        f"turn), nats per response token; mean and standard deviation over {len(values['seeds'])} "
        f"seeds. {terms['model']}, {named}, {terms['budget']:g} virtual seconds, "
        f"{terms['local_steps']} steps of {terms['batch_size']} x {terms['max_length']} tokens a "
        f"round{steps}, learning rate {terms['learning_rate']:g}, ranks "
        f"{', '.join(map(str, terms['ranks']))}; a step takes {base:.3g} + {slope:.2g} x rank "
        f"virtual seconds at slowdown 1, downlinks are {terms['downlink']:g} times faster than "
        f"uplinks.{_work(values)}"
    )


def _work(values: Values) -> str:
    seconds = values.get("work_seconds")
    return "" if seconds is None else f" All runs took {seconds:.0f} seconds of one process."


def rows(levels: Levels, better: _Better) -> list[list[str]]:
    found = []
    for level, methods in levels.items():
        for method, figures in sorted(methods.items(), key=lambda item: item[1]["loss_mean"]):
            gap = ""
            if "gap_mean" in figures and method != _REFERENCE:
                gap = f"{figures['gap_mean']:+.3f} ± {figures['gap_std']:.3f}"
            loss = f"{figures['loss_mean']:.3f} ± {figures['loss_std']:.3f}"
            alone = better.get(level, {}).get(method, ())
            counts = (f"{figures[key]:g}" for key in ("rounds", "steps"))
            idle = f"{figures['idle']:.0%}" if figures.get("idle") else ""
            sizes = (f"{figures[key]:.0f}" for key in ("megabytes_up", "megabytes_down"))
            name = method
            if method == _REFERENCE:
                name += f" ({_clusters(figures['clusters'])})"
            share = " of ".join(map(str, alone))
            found.append([level, name, loss, gap, share, *counts, idle, *sizes])
    return found


def _clusters(by_seed: Mapping[str, int]) -> str:
    numbers = sorted(set(by_seed.values()))
    plural = "" if numbers == [1] else "s"
    return f"{' or '.join(map(str, numbers))} cluster{plural}"


def conclusions(levels: Levels, better: _Better) -> list[str]:
    """Return what the losses say, a sentence for each level.

    A method is above or below Floe where its mean difference, of runs with equal seeds, exceeds its
    standard deviation over the seeds; with one seed nothing is said of that.
    """
    found = []
    for level, methods in levels.items():
        reference = methods.get(_REFERENCE)
        if reference is None:
            continue
        order = sorted(methods, key=lambda name: float(methods[name]["loss_mean"]))
        place = order.index(_REFERENCE) + 1
        said = (
            f"Level {level}: Floe makes {_clusters(reference['clusters'])} and is number {place} "
            f"of {len(methods)} by held-out loss"
        )
        others = {name: methods[name] for name in order if name != _REFERENCE}
        if len(reference["losses"]) > 1:
            above = [n for n, one in others.items() if one["gap_mean"] > one["gap_std"]]
            below = [n for n, one in others.items() if -one["gap_mean"] > one["gap_std"]]
            alike = [n for n in others if n not in (*above, *below)]
            said += (
                f"; its loss is lower than that of {_listed(above)}, higher than that of "
                f"{_listed(below)}, and within one standard deviation of {_listed(alike)}"
            )
        if alone := better.get(level, {}).get(_REFERENCE):
            said += f"; it serves {alone[0]} of {alone[1]} devices better than training alone"
        if untrained := methods.get("untrained"):
            gained = untrained["loss_mean"] - reference["loss_mean"]
            said += f"; it is {gained:.3f} nats below the untrained model"
        found.append(f"{said}.")
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
