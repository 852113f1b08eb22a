"""From tasks to figures: the federated run, the two servers, who is asked what in which order."""

import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.answers import servers, systems
from integration_tests.benchmarks.answers.costs import Meter, averaged, idle_share, measured_costs
from integration_tests.benchmarks.answers.tasks import Sizes, Task, default_tasks, make_tasks
from integration_tests.benchmarks.data import shown
from integration_tests.demo.federation import Federation
from integration_tests.demo.progress import Progress
from integration_tests.demo.prompts import Prompt
from integration_tests.demo.serving import lines_by_label


def measure(options: cli.Namespace) -> dict[str, Any]:
    """Train, serve and ask; the working files go to ``--output``, if that is given."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(options.output or place).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return _measured(options, folder)


def _measured(options: cli.Namespace, folder: Path) -> dict[str, Any]:
    begun = time.monotonic()
    sizes = Sizes(**{field.name: getattr(options, field.name) for field in fields(Sizes)})
    tasks = _tasks(options, sizes)
    if options.run is None:
        alike = ("rounds", "local_steps", "max_length", "export_rank", "seed")
        config = {key.replace("_", "-"): getattr(options, key) for key in alike}
        config |= {"model": options.slm, "eval-examples": 4, "mix": 0.0}
        federation = servers.federate(folder, tasks, config=config)
    else:
        federation = servers.federation_in(options.run.resolve(), tasks)
    trained_s = time.monotonic() - begun
    items, fitted = (_items(tasks, federation, purpose) for purpose in ("asked", "fitted"))
    cli.note("the device's server and the cloud's")
    with servers.serving(federation, folder, llm=options.llm, waiting=Progress().waiting) as both:
        found = figures(both, items, fitted, timed=options.timed, seed=options.seed)
    return {
        "seed": options.seed,
        "models": {
            "slm": shown(str(federation.manifest["model"])),
            "llm": shown(options.llm),
        },
        "sizes": vars(sizes),
        "federation": {
            "reused": options.run is not None,
            "rank": federation.manifest["rank"],
            "rounds": max(entry["round"] for entry in federation.history["rounds"]),
            "seconds": round(trained_s, 1),
            "clusters": servers.described(federation),
        },
        **found,
        "seconds_in_all": round(time.monotonic() - begun, 1),
    }


def _tasks(options: cli.Namespace, sizes: Sizes) -> list[Task]:
    inside, outside = default_tasks(options.data)
    if options.in_task is not None:
        inside = options.in_task
        outside = tuple(name for name in outside if name not in inside)
    outside = outside if options.out_of_task is None else options.out_of_task
    if not inside:
        raise ConfigError("--in-task names no task; the SLM is trained for at least one.")
    if twice := [name for name, count in Counter((*inside, *outside)).items() if count > 1]:
        raise ConfigError(
            f"The task {twice[0]!r} stands twice in --in-task and --out-of-task; once is accepted."
        )
    names = {**dict.fromkeys(inside, True), **dict.fromkeys(outside, False)}
    return make_tasks(names, data=options.data, sizes=sizes, seed=options.seed)


def _items(tasks: Sequence[Task], federation: Federation, purpose: str) -> list[servers.Item]:
    examples = {
        f"{task.name}-{purpose}-{row}": (task, example)
        for task in tasks
        for row, example in enumerate(getattr(task, purpose))
    }
    # The adapter is chosen by the question itself, whatever stands in front of it.
    adapters = federation.adapters_for(
        tuple(Prompt(key, example.prompt) for key, (_, example) in examples.items())
    )
    return [
        servers.Item(
            key=key,
            task=task,
            question=example.prompt,
            prompt=task.prompt(example),
            reference=example.response,
            adapter=adapters[key],
        )
        for key, (task, example) in examples.items()
    ]


def figures(
    both: servers.Servers,
    items: Sequence[servers.Item],
    fitted: Sequence[servers.Item],
    *,
    timed: int,
    seed: int,
) -> dict[str, Any]:
    """Ask both servers everything; return the figures as JSON values.

    The threshold of the cascade is fitted on `fitted`; `timed` items per task are asked once more,
    one at a time.
    """
    meter = Meter({each.name: each.process.pid for each in (both.own, both.cloud)})
    idle = idle_share(meter, [both.own.name, both.cloud.name])
    every = [*items, *fitted]
    # The two servers compute on cores of their own, so the LLM answers beside the SLM.
    with ThreadPoolExecutor(1) as beside:
        llm = beside.submit(both.answers, servers.LLM, every)
        replies = {
            servers.SLM: both.answers(servers.SLM, every),
            servers.SLM_BASE: both.answers(servers.SLM_BASE, items),
        }
        replies[servers.LLM] = llm.result()
    replies[servers.FLOE] = both.answers(servers.FLOE, items)
    bits = both.all_prompt_bits(items)
    threshold = systems.fitted_threshold(fitted, replies)
    tasks = list({item.task.name: item.task for item in items}.values())
    by_task = [[item for item in items if item.task.name == task.name] for task in tasks]
    alone = [item for own in by_task for item in own[:timed]]
    costs = measured_costs(both, alone, meter=meter, threshold=threshold)
    marks = systems.marks_of(items, replies, bits=bits, threshold=threshold)
    found = systems.cells(tasks, items, marks)
    lines = lines_by_label(both.trace)
    rows = [row for item in items for row in lines[item.key]]
    return {
        "tasks": [_told(own, replies[servers.SLM], bits, threshold) for own in by_task],
        "fitted_items": len(fitted),
        "timed_items": len(alone),
        "cascade_threshold": threshold if math.isfinite(threshold) else None,
        "cells": found,
        "totals": systems.totals(items, marks),
        "means": systems.means(found),
        "paired": [
            systems.paired(items, marks, other, seed=seed)
            for other in (systems.ROUTER, servers.LLM, servers.SLM)
        ],
        "costs": {system: averaged(each) for system, each in costs.items()},
        "idle_cpu": idle,
        "fusion": {
            "tokens": len(rows),
            "fused_share": sum(row["outcome"] == "fused" for row in rows) / len(rows),
            "late": sum(row["outcome"] == "late" for row in rows),
            "expert_weight": sum(row["expert_weight"] for row in rows) / len(rows),
        },
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
    own: Sequence[servers.Item],
    replies: Mapping[str, servers.Reply],
    bits: Mapping[str, Mapping[str, float]],
    threshold: float,
) -> dict[str, Any]:
    task = own[0].task
    to_llm = sum(systems.routed(bits[item.key]) == servers.LLM for item in own)
    asked_twice = sum(systems.escalates(replies[item.key], threshold) for item in own)
    return {
        "name": task.name,
        "in_task": task.in_task,
        "kind": task.marking.kind,
        "right_if": task.marking.rule,
        "trained": len(task.trained) if task.in_task else 0,
        "items": len(own),
        "max_tokens": task.max_tokens,
        "adapters": dict(Counter(item.adapter for item in own)),
        "router_llm_share": to_llm / len(own),
        "cascade_llm_share": asked_twice / len(own),
    }
