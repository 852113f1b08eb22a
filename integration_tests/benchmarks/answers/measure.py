"""From running servers to figures: who is asked what, in which order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from integration_tests.benchmarks.answers import result as summary
from integration_tests.benchmarks.answers.costs import averaged, idle_share, measured_costs
from integration_tests.benchmarks.answers.metering import Meter
from integration_tests.benchmarks.answers.servers import (
    FLOE,
    LLM,
    SLM,
    SLM_BASE,
    Fusion,
    Item,
    Reply,
    Servers,
)
from integration_tests.benchmarks.answers.systems import (
    ROUTER,
    escalates,
    fitted_threshold,
    marks_of,
    routed,
)
from integration_tests.benchmarks.answers.tasks import Task


def figures(
    servers: Servers, items: Sequence[Item], fitted: Sequence[Item], *, timed: int, seed: int
) -> dict[str, Any]:
    """Ask both servers everything; return the figures as JSON values.

    Parameters
    ----------
    servers : Servers
    items : Sequence[Item]
        What the systems are compared on.
    fitted : Sequence[Item]
        What the threshold of the cascade is fitted on.
    timed : int
        Items per task that are asked once more, one at a time.
    seed : int
        Of the bootstrap.
    """
    meter = Meter({each.name: each.process.pid for each in (servers.own, servers.cloud)})
    idle = idle_share(meter, [servers.own.name, servers.cloud.name])
    every = [*items, *fitted]
    # The two servers compute on cores of their own, so the LLM answers beside the SLM.
    with ThreadPoolExecutor(1) as beside:
        llm = beside.submit(servers.answers, LLM, every)
        replies = {SLM: servers.answers(SLM, every), SLM_BASE: servers.answers(SLM_BASE, items)}
        replies[LLM] = llm.result()
    replies[FLOE] = servers.answers(FLOE, items)
    bits = servers.all_prompt_bits(items)
    threshold = fitted_threshold(fitted, replies)
    tasks = list({item.task.name: item.task for item in items}.values())
    alone = [
        item
        for task in tasks
        for item in [each for each in items if each.task.name == task.name][:timed]
    ]
    costs = measured_costs(servers, alone, meter=meter, threshold=threshold)
    marks = marks_of(items, replies, bits=bits, threshold=threshold)
    cells = summary.cells(tasks, items, marks)
    fusions = servers.fusions()
    return {
        "tasks": [_told(task, items, replies[SLM], bits, threshold) for task in tasks],
        "fitted_items": len(fitted),
        "timed_items": len(alone),
        "cascade_threshold": threshold if math.isfinite(threshold) else None,
        "cells": cells,
        "totals": summary.totals(items, marks),
        "means": summary.means(cells),
        "paired": [summary.paired(items, marks, other, seed=seed) for other in (ROUTER, LLM, SLM)],
        "costs": {system: averaged(each) for system, each in costs.items()},
        "idle_cpu": idle,
        "fusion": _fusion([fusions[item.key] for item in items]),
        "answers": [
            {
                "task": item.task.name,
                "reference": item.reference,
                "adapter": item.adapter,
                "bits_per_byte": bits[item.key],
                "texts": {writer: replies[writer][item.key].text for writer in replies},
            }
            for item in items
        ],
    }


def _told(
    task: Task,
    items: Sequence[Item],
    replies: Mapping[str, Reply],
    bits: Mapping[str, Mapping[str, float]],
    threshold: float,
) -> dict[str, Any]:
    own = [item for item in items if item.task.name == task.name]
    return {
        "name": task.name,
        "in_task": task.in_task,
        "kind": task.marking.kind,
        "right_if": task.marking.rule,
        "trained": len(task.trained) if task.in_task else 0,
        "items": len(own),
        "max_tokens": task.max_tokens,
        "adapters": dict(Counter(item.adapter for item in own)),
        "router_llm_share": sum(routed(bits[item.key]) == LLM for item in own) / len(own),
        "cascade_llm_share": sum(escalates(replies[item.key], threshold) for item in own)
        / len(own),
    }


def _fusion(fusions: Sequence[Fusion]) -> dict[str, Any]:
    tokens = sum(each.tokens for each in fusions)
    return {
        "tokens": tokens,
        "fused_share": sum(each.fused for each in fusions) / tokens,
        "late": sum(each.late for each in fusions),
        "expert_weight": sum(each.expert_weight * each.tokens for each in fusions) / tokens,
    }
