"""The answers of each system, of writers and of those that choose between them, compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import binomtest  # type: ignore[import-untyped]

from integration_tests.benchmarks.answers.servers import (
    FLOE,
    LLM,
    MARKED,
    SLM,
    SLM_BASE,
    Item,
    Reply,
)
from integration_tests.benchmarks.answers.tasks import Task, token_f1

_RESAMPLES = 2_000
ROUTER, CASCADE, HINDSIGHT = "router", "cascade", "hindsight"
#: Floe for prompts that an adapter fits, and the LLM alone for the others.
FITTING = "floe-fitting"
#: In the place of an adapter's name.
NO_ADAPTER = "none"

_CHOOSING = (ROUTER, CASCADE, HINDSIGHT, FITTING)

#: In the order of the table; `HINDSIGHT` is not a system that could be run.
SYSTEMS = (LLM, SLM_BASE, SLM, ROUTER, CASCADE, HINDSIGHT, *MARKED, FLOE, FITTING)

Marks = Mapping[str, Mapping[str, "Mark"]]  # system -> item's key -> mark
Replies = Mapping[str, Mapping[str, Reply]]  # writer -> item's key -> answer


@dataclass(frozen=True)
class Mark:
    """The score of an answer: whether it is right, and its F1 with the reference."""

    right: bool
    f1: float


def mark(item: Item, reply: Reply) -> Mark:
    texts = (reply.text, item.reference)
    return Mark(item.task.marking.right(*texts), token_f1(*texts))


def routed(bits: Mapping[str, float]) -> str:
    """Return the writer that finds a prompt likelier, given bits per byte of both; parameter-free.

    Routing by the likelihood of the prompt is a router without training; its weakness is that a
    fine-tuned model knows its prompts better than their answers.
    """
    return SLM if bits[SLM] < bits[LLM] else LLM


def escalates(reply: Reply, threshold: float) -> bool:
    """Tell whether the cascade calls the LLM after this answer of the SLM."""
    return reply.logprob < threshold


def fitted_threshold(items: Sequence[Item], replies: Replies) -> float:
    """Return the threshold of the cascade that would have been right most often.

    FrugalGPT (Chen et al., arXiv 2305.05176) calls the cheap model first, and the expensive one if
    a score of the first answer is low. The score here is the mean log-probability of the answer's
    tokens, and one threshold serves all tasks. Ties are broken by the higher mean F1, then by the
    fewer calls of the LLM.

    None of the items is among those that the systems are compared on.
    """
    scores = sorted({replies[SLM][item.key].logprob for item in items})
    candidates = [-float("inf"), *scores, float("inf")]

    def worth(threshold: float) -> tuple[int, float]:
        marks = [mark(item, _cascaded(item, replies, threshold)) for item in items]
        return sum(each.right for each in marks), sum(each.f1 for each in marks)

    return max(candidates, key=lambda threshold: (*worth(threshold), -threshold))


def marks_of(
    items: Sequence[Item],
    replies: Replies,
    *,
    bits: Mapping[str, Mapping[str, float]],
    threshold: float,
) -> Marks:
    """Return system -> item's key -> mark; for `bits` of the prompts see `routed`."""
    wrote = [system for system in SYSTEMS if system in replies or system in _CHOOSING]
    found: dict[str, dict[str, Mark]] = {system: {} for system in wrote}
    for item in items:
        for writer in replies:
            found[writer][item.key] = mark(item, replies[writer][item.key])
        found[ROUTER][item.key] = found[routed(bits[item.key])][item.key]
        found[CASCADE][item.key] = mark(item, _cascaded(item, replies, threshold))
        found[FITTING][item.key] = found[LLM if item.adapter is None else FLOE][item.key]
        both = (found[SLM][item.key], found[LLM][item.key])
        found[HINDSIGHT][item.key] = max(both, key=lambda each: (each.right, each.f1))
    return found


def _cascaded(item: Item, replies: Replies, threshold: float) -> Reply:
    first = replies[SLM][item.key]
    return replies[LLM][item.key] if escalates(first, threshold) else first


def cells(tasks: Sequence[Task], items: Sequence[Item], marks: Marks) -> list[dict[str, Any]]:
    """Return the figures of every system on every task."""
    found = []
    for task in tasks:
        own = [item for item in items if item.task.name == task.name]
        told = {"task": task.name, "in_task": task.in_task}
        found += [each | told for each in totals(own, marks)]
    return found


def totals(items: Sequence[Item], marks: Marks) -> list[dict[str, Any]]:
    """Return the figures of every system over all items."""
    return [
        {"system": system, **_figures([marks[system][item.key] for item in items])}
        for system in marks
    ]


def _figures(own: Sequence[Mark]) -> dict[str, Any]:
    right = sum(each.right for each in own)
    # Wilson's interval stays within 0 and 1, and has a width even if all are wrong.
    interval = binomtest(right, len(own)).proportion_ci(method="wilson")
    return {
        "n": len(own),
        "right": right,
        "exact_match": right / len(own),
        "low": float(interval.low),
        "high": float(interval.high),
        "f1": fmean(each.f1 for each in own),
    }


def means(figures: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return group -> system -> mean over tasks; a group is ``in-task`` or ``out-of-task``."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for group, in_task in (("in-task", True), ("out-of-task", False)):
        own = [figure for figure in figures if figure["in_task"] is in_task]
        if own:
            found[group] = {
                system: {
                    key: fmean(each[key] for each in own if each["system"] == system)
                    for key in ("exact_match", "f1")
                }
                for system in dict.fromkeys(each["system"] for each in own)
            }
    return found


def against_better(
    items: Sequence[Item], marks: Marks, system: str, *, seed: int
) -> dict[str, Any]:
    """Compare a system with the one of LLM and SLM that is right more often on these items."""
    better = max((LLM, SLM), key=lambda each: sum(marks[each][item.key].right for item in items))
    return paired(items, marks, system, better, seed=seed)


def paired(
    items: Sequence[Item], marks: Marks, system: str, other: str, *, seed: int
) -> dict[str, Any]:
    """Compare two systems, item by item.

    ``system_only`` and ``other_only`` are items that one alone had right, ``p_value`` that of the
    sign test on these, two-sided; ``f1_difference`` is the mean of `system` less that of `other`,
    with its 95 % interval by a bootstrap over items.
    """
    pairs = [(marks[system][item.key], marks[other][item.key]) for item in items]
    system_only = sum(mine.right and not theirs.right for mine, theirs in pairs)
    other_only = sum(theirs.right and not mine.right for mine, theirs in pairs)
    apart = system_only + other_only
    differences = np.array([mine.f1 - theirs.f1 for mine, theirs in pairs])
    rows = np.random.default_rng(seed).integers(len(pairs), size=(_RESAMPLES, len(pairs)))
    low, high = np.quantile(differences[rows].mean(axis=1), (0.025, 0.975))
    return {
        "other": other,
        "items": len(pairs),
        "system_only": system_only,
        "other_only": other_only,
        "p_value": float(binomtest(system_only, apart).pvalue) if apart else 1.0,
        "f1_difference": float(differences.mean()),
        "f1_low": float(low),
        "f1_high": float(high),
    }
