"""Seconds, processor seconds, joules and bytes of an answer, one request at a time."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

import psutil

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.answers.servers import ALONE, LLM, SLM, Item, Reply, Servers
from integration_tests.benchmarks.answers.systems import CASCADE, ROUTER, escalates, routed
from integration_tests.demo.serving import lines_by_label

_IDLE_SECONDS = 4.0
#: The process that asks, and scores questions with the SLM.
OWN = "client"
_ADDED = ("seconds", "cpu", "bytes_left")

#: Intel's and AMD's counters of whole packages; their parts, such as ``intel-rapl:0:0``, are not
#: counted twice.
_POWERCAP = Path("/sys/class/powercap")
_PACKAGES = "intel-rapl:[0-9]"

_Found = TypeVar("_Found")


class Reading(NamedTuple):
    """A meter's state."""

    cpu: Mapping[str, float]  # server -> seconds that its processes have computed
    microjoules: Mapping[str, int]  # package -> energy counter; empty where it cannot be read


class Meter:
    """Reads the processor seconds of process trees, by their roots' ids, and packages' energy.

    `OWN` stands for this process alone, without its children.
    """

    def __init__(self, processes: Mapping[str, int], *, powercap: Path = _POWERCAP) -> None:
        self._roots = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._packages: dict[str, Path] = {}
        for package in sorted(powercap.glob(_PACKAGES)):
            # Most kernels show the counter to root alone.
            with contextlib.suppress(OSError, ValueError):
                int((package / "energy_uj").read_text())
                self._packages[package.name] = package

    def read(self) -> Reading:
        return Reading(
            {OWN: time.process_time()}
            | {name: _cpu_seconds(root) for name, root in self._roots.items()},
            {name: int((at / "energy_uj").read_text()) for name, at in self._packages.items()},
        )

    def cpu_between(self, before: Reading, after: Reading, names: Sequence[str]) -> float:
        return sum(after.cpu[name] - before.cpu[name] for name in names)

    def joules_between(self, before: Reading, after: Reading) -> float | None:
        """Return the joules of all packages between two readings; None if unknown."""
        if not self._packages:
            return None
        total = 0
        for name, package in self._packages.items():
            spent = after.microjoules[name] - before.microjoules[name]
            # The counter wraps around at its largest value.
            most = int((package / "max_energy_range_uj").read_text()) if spent < 0 else 0
            total += spent + most
        return total / 1e6


def _cpu_seconds(root: psutil.Process) -> float:
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one answer."""

    seconds: float  # until the answer was complete
    cpu: float  # processor seconds of all processes of the servers involved
    joules: float | None = None  # of all processor packages; None where they cannot be read
    tokens: int = 0  # of the answer
    #: Bytes that left the device: the request, and what its server told the cloud's.
    bytes_left: int = 0

    def after(self, first: Cost) -> Cost:
        """Return the cost of `first` and then this; the answer is this one's."""
        joules = None
        if self.joules is not None and first.joules is not None:
            joules = self.joules + first.joules
        sums = {key: getattr(self, key) + getattr(first, key) for key in _ADDED}
        return Cost(joules=joules, tokens=self.tokens, **sums)


def idle_share(meter: Meter, names: Sequence[str]) -> dict[str, float]:
    """Return the processor seconds per second of idle servers."""
    before, begun = meter.read(), time.perf_counter()
    time.sleep(_IDLE_SECONDS)
    after, seconds = meter.read(), time.perf_counter() - begun
    return {name: meter.cpu_between(before, after, [name]) / seconds for name in names}


def measured_costs(
    servers: Servers, items: Sequence[Item], *, meter: Meter, threshold: float
) -> dict[str, list[Cost]]:
    """Return system -> cost per item, for both models alone, the fused system and the choosers.

    The choosing systems are charged for what they run: the router for scoring the question with
    both models, side by side, and for the answer of the one that it takes; the cascade for the
    SLM's answer, and for the LLM's where it asks it. No server knows any of a prompt from before.
    """
    found: dict[str, list[Cost]] = {system: [] for system in (*ALONE, ROUTER, CASCADE)}
    for item in cli.progress(items, "one at a time"):
        own: dict[str, Cost] = {}
        replies: dict[str, Reply] = {}
        for writer in ALONE:
            replies[writer], own[writer] = _written(servers, writer, item, meter)
            found[writer].append(own[writer])
        servers.forget_prompts()
        scoring_ones = [OWN, servers.cloud.name]
        bits, scoring = _metered(meter, scoring_ones, partial(servers.prompt_bits, item))
        taken = routed(bits)
        # The prompt goes to the cloud for its score, and not a second time for its answer.
        scoring = replace(scoring, bytes_left=0 if taken == LLM else own[LLM].bytes_left)
        found[ROUTER].append(own[taken].after(scoring))
        asked_twice = escalates(replies[SLM], threshold)
        found[CASCADE].append(own[LLM].after(own[SLM]) if asked_twice else own[SLM])
    fused = written_costs(servers, servers.fused, items, meter=meter)
    return found | {servers.fused: fused}


def written_costs(
    servers: Servers, writer: str, items: Sequence[Item], *, meter: Meter
) -> list[Cost]:
    """Return a writer's cost per item, with the bytes of the expert's replies if it is fused."""
    asked = cli.progress(items, f"one at a time, {writer}")
    costs = [_written(servers, writer, item, meter)[1] for item in asked]
    if writer != servers.fused:
        return costs
    lines = lines_by_label(servers.trace)
    found = []
    for cost, item in zip(costs, items, strict=True):
        received = sum(line["received_bytes"] for line in lines[_label(item)])
        found.append(replace(cost, bytes_left=cost.bytes_left + received))
    return found


def _label(item: Item) -> str:
    # A trace may have lines of an earlier process, too.
    return f"cost {item.key} {os.getpid()}"


def _written(servers: Servers, writer: str, item: Item, meter: Meter) -> tuple[Reply, Cost]:
    """Let a writer answer; of its cost, the bytes of the expert's replies are left out."""
    names = [server.name for server in servers.of(writer)]
    ask = partial(servers.answer, writer, item, label=_label(item))
    servers.forget_prompts()
    reply, spent = _metered(meter, names, ask)
    # The request leaves the device where the cloud's server gets it.
    sent = reply.request_bytes if servers.cloud in servers.of(writer) else 0
    return reply, replace(spent, tokens=reply.tokens, bytes_left=sent)


def averaged(costs: Sequence[Cost]) -> dict[str, Any]:
    """Return a system's costs as JSON values, means per answer."""
    tokens = sum(cost.tokens for cost in costs)
    joules = [cost.joules for cost in costs if cost.joules is not None]
    return {
        "latency_ms": 1e3 * fmean(cost.seconds for cost in costs),
        "cpu_seconds": fmean(cost.cpu for cost in costs),
        "cpu_seconds_per_token": sum(cost.cpu for cost in costs) / tokens if tokens else None,
        "tokens": tokens / len(costs),
        "bytes_left": fmean(cost.bytes_left for cost in costs),
        "joules": fmean(joules) if joules else None,
    }


def _metered(meter: Meter, names: Sequence[str], work: Callable[[], _Found]) -> tuple[_Found, Cost]:
    """Do some work; return what it gives and what it took, its bytes and tokens left open."""
    before, begun = meter.read(), time.perf_counter()
    found = work()
    seconds, after = time.perf_counter() - begun, meter.read()
    cpu, joules = meter.cpu_between(before, after, names), meter.joules_between(before, after)
    return found, Cost(seconds=seconds, cpu=cpu, joules=joules)
