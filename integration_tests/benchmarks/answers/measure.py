"""From tasks to figures: the federated run, the two servers, who is asked what in which order."""

import hashlib
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError
from floe_plugins.models import resolve
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.answers import servers, systems
from integration_tests.benchmarks.answers.costs import (
    Cost,
    Meter,
    averaged,
    idle_share,
    measured_costs,
    written_costs,
)
from integration_tests.benchmarks.answers.device import Scorer, device_server
from integration_tests.benchmarks.answers.journal import Journal
from integration_tests.benchmarks.answers.servers import TIMED
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
    if unknown := [name for name in options.further if name not in servers.FURTHER]:
        raise ConfigError(
            f"--further {unknown[0]!r} is not known; accepted are {', '.join(servers.FURTHER)}, or "
            "'' for none."
        )
    first, *others = _comparisons(options)
    if options.run is None:
        alike = ("rounds", "local_steps", "max_length", "export_rank", "seed")
        config = {key.replace("_", "-"): getattr(options, key) for key in alike}
        config |= {"model": options.slm, "eval-examples": 4, "mix": 0.0}
        federation = servers.federate(folder, first.tasks, config=config)
    else:
        federation = servers.federation_in(options.run.resolve(), first.tasks)
    trained_s = time.monotonic() - begun
    cli.note("the device's server and the cloud's")
    waiting = Progress().waiting
    slm = str(federation.manifest["model"])
    scorer = Scorer(resolve(slm), federation.adapters)
    with device_server(federation, folder, waiting=waiting) as device:

        def compared(one: Comparison, *, timed: int) -> dict[str, Any]:
            own = folder / one.name
            own.mkdir(exist_ok=True)
            servers.check_untrained(one.tasks, federation)
            settings = {"slm": slm, "llm": one.llm, "seed": options.seed, **vars(one.sizes)}
            settings["tasks"] = [task.name for task in one.tasks]
            settings["adapters"] = {name: _digest(at) for name, at in federation.adapters.items()}
            cloud = partial(
                servers.both_servers,
                device,
                scorer,
                federation,
                own,
                llm=one.llm,
                journal=Journal(own / "answers.jsonl", settings=settings),
                waiting=waiting,
            )
            items, fitted = (
                _items(one.tasks, federation, purpose) for purpose in ("asked", "fitted")
            )
            return {
                "llm": shown(one.llm),
                "shots": one.sizes.shots,
                **figures(
                    lambda fused: cloud(fused=fused),
                    items,
                    fitted,
                    further=[each for each in options.further if timed or each not in TIMED],
                    timed=timed,
                    seed=options.seed,
                ),
            }

        found = compared(first, timed=options.timed)
        found["others"] = [compared(other, timed=0) for other in others]
        engine = device.engine
    return {
        "seed": options.seed,
        "models": {"slm": shown(slm), "llm": shown(options.llm), "slm_server": engine},
        "sizes": vars(first.sizes),
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


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One LLM, and one form of the prompts."""

    name: str  # of its folder in the output; empty for the first, whose costs are measured too
    llm: str
    sizes: Sizes
    tasks: Sequence[Task]


def _comparisons(options: cli.Namespace) -> list[Comparison]:
    given = {field.name: getattr(options, field.name) for field in fields(Sizes)}
    first, *others = (Sizes(**{**given, "shots": shots}) for shots in options.shots)
    fewer = replace(first, asked=options.other_items)
    asked = [
        ("", options.llm, first),
        *((f"shots-{each.shots}", options.llm, each) for each in others),
        *((f"llm-{place}", llm, fewer) for place, llm in enumerate(options.other_llms or (), 2)),
    ]
    return [
        Comparison(name=name, llm=llm, sizes=sizes, tasks=_tasks(options, sizes))
        for name, llm, sizes in asked
    ]


def _digest(adapter: Path) -> str:
    return hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()


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
    # The adapter is chosen by the question itself, whatever stands in front of it; the model
    # answers without one where the question is unlike the task of all.
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
            adapter=adapters[key].name if adapters[key].fits else None,
        )
        for key, (task, example) in examples.items()
    ]


Cloud = Callable[[str], AbstractContextManager[servers.Servers]]


def figures(
    cloud: Cloud,
    items: Sequence[servers.Item],
    fitted: Sequence[servers.Item],
    *,
    further: Sequence[str],
    timed: int,
    seed: int,
) -> dict[str, Any]:
    """Ask the servers everything; return the figures as JSON values.

    Parameters
    ----------
    cloud : callable
        Starts the cloud's server for a fused system; gives both servers, and stops its own on exit.
    items, fitted : sequences of Item
        The systems are compared on `items`; the threshold of the cascade is fitted on `fitted`.
    further : sequence of str
        Of `servers.FURTHER`.
    timed : int
        Items per task that are asked once more, one at a time; 0 for figures without costs.
    seed : int
        Of the bootstrap.
    """
    tasks = list({item.task.name: item.task for item in items}.values())
    by_task = [[item for item in items if item.task.name == task.name] for task in tasks]
    alone = [item for own in by_task for item in own[:timed]]
    costs: dict[str, list[Cost]] = {}
    idle: dict[str, float] = {}
    with cloud(servers.FLOE) as both:
        if alone:
            idle = idle_share(_meter(both), [both.device.server.name, both.cloud.name])
        replies = _replies_alone(both, items, fitted)
        replies[servers.FLOE] = both.answers(servers.FLOE, items)
        bits = both.all_prompt_bits(items)
        threshold = systems.fitted_threshold(fitted, replies)
        if alone:
            costs |= measured_costs(both, alone, meter=_meter(both), threshold=threshold)
        if servers.SLM_BASE in further:
            replies[servers.SLM_BASE] = both.answers(servers.SLM_BASE, items)
            _price(costs, servers.SLM_BASE, both, alone)
        lines = lines_by_label(both.trace)
        rows = [row for item in items for row in lines[item.key]]
    for fused in further:
        if fused == servers.SLM_BASE:
            continue
        with cloud(fused) as both:
            if fused in servers.MARKED:
                replies[fused] = both.answers(fused, items)
            _price(costs, fused, both, alone)
    marks = systems.marks_of(items, replies, bits=bits, threshold=threshold)
    found = systems.cells(tasks, items, marks)
    if alone:
        costs[systems.FITTING] = [
            costs[servers.LLM if item.adapter is None else servers.FLOE][place]
            for place, item in enumerate(alone)
        ]
    own = (systems.HINDSIGHT, servers.FLOE, systems.FITTING)
    compared = [each for each in marks if each not in own]
    return {
        "tasks": [_told(own, replies[servers.SLM], bits, threshold) for own in by_task],
        "fitted_items": len(fitted),
        "timed_items": len(alone),
        "cascade_threshold": threshold if math.isfinite(threshold) else None,
        "cells": found,
        "totals": systems.totals(items, marks),
        "means": systems.means(found),
        "paired": [
            systems.paired(items, marks, servers.FLOE, other, seed=seed) for other in compared
        ],
        "against_better": [
            {
                "task": own[0].task.name,
                "system": system,
                **systems.against_better(own, marks, system, seed=seed),
            }
            for system in (servers.FLOE, systems.FITTING)
            for own in by_task
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


def _price(
    costs: dict[str, list[Cost]], writer: str, both: servers.Servers, alone: Sequence[servers.Item]
) -> None:
    if alone:
        costs[writer] = written_costs(both, writer, alone, meter=_meter(both))


def _meter(both: servers.Servers) -> Meter:
    return Meter({each.name: each.process.pid for each in (both.device.server, both.cloud)})


def _replies_alone(
    both: servers.Servers, items: Sequence[servers.Item], fitted: Sequence[servers.Item]
) -> dict[str, dict[str, servers.Reply]]:
    every = [*items, *fitted]
    # The two servers compute on cores of their own, so the LLM answers beside the SLM.
    with ThreadPoolExecutor(1) as beside:
        llm = beside.submit(both.answers, servers.LLM, every)
        return {servers.SLM: both.answers(servers.SLM, every), servers.LLM: llm.result()}


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
        "adapters": dict(Counter(item.adapter or systems.NO_ADAPTER for item in own)),
        "router_llm_share": to_llm / len(own),
        "cascade_llm_share": asked_twice / len(own),
    }
