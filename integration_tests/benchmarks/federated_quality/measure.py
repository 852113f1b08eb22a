"""Runs levels x seeds x methods in worker processes; every result is stored as it arrives."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import queue
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from floe_plugins.errors import ConfigError
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.federated_quality import world
from integration_tests.benchmarks.federated_quality.ablation import ablation
from integration_tests.benchmarks.federated_quality.methods import method_of

#: One method in one case: ``level``, ``seed``, ``budget``, ``examples``, ``method``, ``loss`` and
#: what it took.
Record = dict[str, Any]
Levels = dict[str, dict[str, dict[str, Any]]]  # level -> method -> figures

_REFERENCE = "floe"
_POLL_SECONDS = 1.0
_ALONE = ("local", "local_tuned")  # share no training with other methods, and are as long as they


def measure(options: cli.Namespace) -> dict[str, Any]:
    """Run the remaining tasks, and return mean and spread over the seeds."""
    protocol = world.Protocol(
        **{item.name: getattr(options, item.name) for item in fields(world.Protocol)}
    )
    for level in options.levels:
        protocol.run_config(level, options.seeds[0])
    if options.measure_steps:
        seconds = world.measured_step_seconds(protocol, seed=options.seeds[0])
        protocol = replace(protocol, step_seconds=seconds)
    journal = Journal(options.resume, protocol.described())
    some = options.seeds[: options.more_seeds]
    whole, every = [protocol.budget], [protocol.examples]
    main = cases_of(options.levels, options.seeds, whole, every)
    curve = cases_of(options.curve_levels, some, options.curve_budgets, every)
    few = cases_of(options.few_levels, some, whole, [options.few_examples])
    chosen = ((main, options.methods), (curve, options.curve_methods), (few, options.few_methods))
    wanted = [(case, methods) for cases, methods in chosen for case in cases]
    tasks = plan(wanted, done=journal.records)
    total = sum(len(task.methods) for task in tasks)
    records = run_tasks(protocol, tasks, jobs=options.jobs)
    with cli.progress(records, "federated_quality", total=total) as bar:
        for record in bar:
            journal.add(record)
            bar.set_postfix_str(
                f"{record['method']} level {record['level']:g} seed {record['seed']}: "
                f"{record['loss']:.3f}"
            )
    found = {(Case.of(each), each["method"]): each for each in journal.records}

    def records_of(cases: Sequence[Case], methods: Sequence[str]) -> list[Record]:
        return [found[case, method] for method in methods for case in cases]

    levels = summarise(records_of(main, options.methods))
    curves = {
        f"{budget:g}": summarise(
            records_of([case for case in curve if case.budget == budget], options.curve_methods)
        )
        for budget in options.curve_budgets
    }
    return {
        "levels": levels,
        "ablation": ablation(levels),
        "seeds": list(options.seeds),
        "protocol": protocol.described(),
        # Also of what an interrupted run had done before.
        "records": [
            found[case, name] for cases, names in chosen for case in cases for name in names
        ],
        "work_seconds": math.fsum(record["wall_seconds"] for record in found.values()),
        "devices_better": devices_better(records_of(main, options.methods)),
        "energy_above": energy_by_round(records_of(main, options.methods)),
        "budget_curve": {budget: levels for budget, levels in curves.items() if levels},
        "few_examples": {
            "examples": options.few_examples,
            "levels": summarise(records_of(few, options.few_methods)),
        },
    }


@dataclass(frozen=True)
class Case:
    """What methods are compared on: a level and a seed, virtual seconds, examples (0 is all)."""

    level: float
    seed: int
    budget: float
    examples: int

    @staticmethod
    def of(record: Record) -> Case:
        return Case(*(record[item.name] for item in fields(Case)))


def cases_of(
    levels: Sequence[float],
    seeds: Sequence[int],
    budgets: Sequence[float],
    examples: Sequence[int],
) -> list[Case]:
    """Return all combinations."""
    return [Case(*each) for each in product(levels, seeds, budgets, examples)]


@dataclass(frozen=True)
class Task:
    """Methods of one case that one process runs, so that they share first rounds."""

    case: Case
    methods: tuple[str, ...]


def plan(wanted: Sequence[tuple[Case, Sequence[str]]], *, done: Sequence[Record]) -> list[Task]:
    """Return the remaining tasks, in pieces of about the same length."""
    finished = {(Case.of(record), record["method"]) for record in done}
    tasks: list[Task] = []
    for case, methods in wanted:
        left = [name for name in methods if (case, name) not in finished]
        finished |= {(case, name) for name in left}
        alone = tuple(name for name in left if name in _ALONE)
        together = tuple(name for name in left if name not in _ALONE)
        tasks += [Task(case, names) for names in (alone, together) if names]
    return tasks


def run_task(
    protocol: world.Protocol, task: Task, emit: Callable[[Record], None], *, remember: bool = True
) -> None:
    """Run a task's methods one after another; `emit` gets each record as soon as it is there."""
    # Every round is logged otherwise; warnings (a refused reply) still show.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    case = task.case
    protocol = replace(protocol, budget=case.budget, examples=case.examples)
    bench = world.Workbench(
        world.World(protocol, level=case.level, seed=case.seed), remember=remember
    )
    for name in task.methods:
        started, trained = time.monotonic(), bench.trainings
        run = method_of(name)
        if run is None:
            raise ConfigError(f"There is no method {name!r}.")
        outcome = run(bench)
        clock, served = outcome.clock, outcome.served
        losses = [bench.held_out(node, served[node]) for node in sorted(served)]
        emit(
            {
                **asdict(case),
                "method": name,
                "loss": math.fsum(losses) / len(losses),
                "device_losses": losses,
                "rounds": clock.rounds,
                "virtual_seconds": clock.seconds,
                "idle": clock.idle,
                "steps": outcome.steps,
                "megabytes_down": clock.bytes_down / 1e6,
                "megabytes_up": clock.bytes_up / 1e6,
                **outcome.details,
                "trainings": bench.trainings - trained,
                "wall_seconds": time.monotonic() - started,
            }
        )


def run_tasks(protocol: world.Protocol, tasks: Sequence[Task], *, jobs: int) -> Iterator[Record]:
    """Run tasks in `jobs` processes of one thread each and yield records as they come."""
    context = multiprocessing.get_context("spawn")
    records: multiprocessing.Queue[Record] = context.Queue()
    with ProcessPoolExecutor(
        max_workers=jobs, mp_context=context, initializer=_prepare, initargs=(records,)
    ) as pool:
        futures = [pool.submit(_work, protocol, task) for task in tasks]
        missing = sum(len(task.methods) for task in tasks)
        while missing:
            try:
                yield records.get(timeout=_POLL_SECONDS)
                missing -= 1
            except queue.Empty:
                for future in futures:
                    if future.done() and (error := future.exception()) is not None:
                        pool.shutdown(wait=False, cancel_futures=True)
                        raise error from None


_records: multiprocessing.Queue[Record]


def _prepare(records: multiprocessing.Queue[Record]) -> None:
    global _records
    _records = records
    torch.set_num_threads(1)
    threadpool_limits(limits=1)


def _work(protocol: world.Protocol, task: Task) -> None:
    run_task(protocol, task, _records.put)


class Journal:
    """The JSONL file from which an interrupted benchmark resumes; without a path nothing is kept.

    Its first line holds the protocol, every other a record.
    """

    def __init__(self, path: Path | None, protocol: dict[str, Any]) -> None:
        self._path = path
        self.records: list[Record] = []
        if path is None:
            return
        if path.exists() and (lines := path.read_text("utf-8").splitlines()):
            kept = json.loads(lines[0])["protocol"]
            if kept != protocol:
                odd = sorted(key for key in protocol if kept.get(key) != protocol[key])
                raise ConfigError(
                    f"--resume {path} was written with another {', '.join(odd)}; give another file."
                )
            # An incomplete line is measured again.
            self.records = [json.loads(line) for line in lines[1:] if line.endswith("}")]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write([{"protocol": protocol}, *self.records], mode="w")

    def add(self, record: Record) -> None:
        self.records.append(record)
        self._write([record], mode="a")

    def _write(self, rows: Sequence[Record], *, mode: str) -> None:
        if self._path is not None:
            with self._path.open(mode, encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)


def summarise(records: Sequence[Record]) -> Levels:
    """Return the figures by level and method, in the records' order of methods.

    ``loss_std`` is the sample standard deviation over seeds, 0 for one seed, of the mean held-out
    loss over devices, nats per response token. ``gap_mean`` and ``gap_std`` are of the loss less
    Floe's with the same seed, where Floe was run. Floe's ``clusters`` is their number by seed, and
    its ``keeps`` which model how many devices keep, where they validate.
    """
    levels: Levels = {}
    for record in records:
        level = levels.setdefault(f"{record['level']:g}", {})
        level.setdefault(record["method"], {"records": []})["records"].append(record)
    return {
        level: {
            method: _figures(found["records"], methods.get(_REFERENCE, {"records": []})["records"])
            for method, found in methods.items()
        }
        for level, methods in levels.items()
    }


def _figures(records: Sequence[Record], reference: Sequence[Record]) -> dict[str, Any]:
    losses = {record["seed"]: record["loss"] for record in records}
    base = {record["seed"]: record["loss"] for record in reference}
    gaps = [loss - base[seed] for seed, loss in losses.items() if seed in base]
    figures: dict[str, Any] = {
        "loss_mean": statistics.fmean(losses.values()),
        "loss_std": _spread(list(losses.values())),
        "losses": {str(seed): loss for seed, loss in sorted(losses.items())},
    }
    if gaps:
        figures |= {"gap_mean": statistics.fmean(gaps), "gap_std": _spread(gaps)}
    for key in ("rounds", "steps", "idle", "virtual_seconds", "megabytes_up", "megabytes_down"):
        figures[key] = statistics.fmean(record[key] for record in records)
    if any("keeps" in record for record in records):
        kept = Counter(name for record in records for name in record.get("keeps", {}).values())
        figures["keeps"] = dict(kept)
    if "clusters" in records[0]:
        figures["clusters"] = {str(record["seed"]): len(record["clusters"]) for record in records}
    return figures


def devices_better(records: Sequence[Record]) -> dict[str, dict[str, list[int]]]:
    """Return level -> method -> devices that it serves better than training alone, and of how many.

    A device counts once for each seed. Empty where nothing was trained alone.
    """
    alone = {Case.of(each): each["device_losses"] for each in records if each["method"] == "local"}
    found: dict[str, dict[str, list[int]]] = {}
    for record in records:
        own = alone.get(Case.of(record))
        if own is None or record["method"] == "local":
            continue
        counts = found.setdefault(f"{record['level']:g}", {}).setdefault(record["method"], [0, 0])
        pairs = zip(record["device_losses"], own, strict=True)
        counts[0] += sum(loss < other for loss, other in pairs)
        counts[1] += len(own)
    return found


def energy_by_round(records: Sequence[Record]) -> dict[str, dict[str, list[float]]]:
    """Return level -> method -> by round, `means.energy_above` of the mean, averaged over seeds.

    Of a method whose server keeps no such mean, and of runs that noted none, there is no entry;
    rounds that not all seeds have are left out.
    """
    noted: dict[str, dict[str, list[list[float]]]] = {}
    for record in records:
        if shares := record.get("energy_above"):
            methods = noted.setdefault(f"{record['level']:g}", {})
            methods.setdefault(record["method"], []).append(shares)
    return {
        level: {
            method: [statistics.fmean(shares) for shares in zip(*runs, strict=False)]
            for method, runs in methods.items()
        }
        for level, methods in noted.items()
    }


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
