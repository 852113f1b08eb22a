"""Seconds, processor seconds, joules and bytes of an answer, one request at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any, TypeVar

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.answers.metering import Meter
from integration_tests.benchmarks.answers.servers import (
    FLOE,
    LLM,
    SLM,
    WRITERS,
    Item,
    Reply,
    Servers,
)
from integration_tests.benchmarks.answers.systems import CASCADE, ROUTER, escalates, routed

_IDLE_SECONDS = 4.0

_Found = TypeVar("_Found")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one answer took.

    Attributes
    ----------
    seconds : float
        Until the whole answer was there.
    cpu : float
        Processor seconds of all processes of the servers involved.
    joules : float or None
        Of all processor packages; None where they cannot be read.
    tokens : int
        Of the answer.
    bytes_left : int
        Bytes that left the device: the request, and what its server told the cloud's.
    """

    seconds: float
    cpu: float
    joules: float | None
    tokens: int
    bytes_left: int

    def after(self, first: Cost) -> Cost:
        """Return the cost of `first` and then this; the answer is this one's."""
        joules = None
        if self.joules is not None and first.joules is not None:
            joules = self.joules + first.joules
        return Cost(
            seconds=self.seconds + first.seconds,
            cpu=self.cpu + first.cpu,
            joules=joules,
            tokens=self.tokens,
            bytes_left=self.bytes_left + first.bytes_left,
        )


def idle_share(meter: Meter, names: Sequence[str]) -> dict[str, float]:
    """Return the processor seconds per second of servers that nobody asks anything."""
    before, begun = meter.read(), time.perf_counter()
    time.sleep(_IDLE_SECONDS)
    after, seconds = meter.read(), time.perf_counter() - begun
    return {name: meter.cpu_between(before, after, [name]) / seconds for name in names}


def measured_costs(
    servers: Servers, items: Sequence[Item], *, meter: Meter, threshold: float
) -> dict[str, list[Cost]]:
    """Return system -> cost per item; the choosing systems are charged for what they run.

    The router is charged for scoring the question with both models, side by side, and for the
    answer of the one that it takes; the cascade for the SLM's answer, and for the LLM's where it
    asks it. No server knows any of a prompt from before.

    Parameters
    ----------
    servers : Servers
    items : Sequence[Item]
    meter : Meter
        Of both servers, by name.
    threshold : float
        Of the cascade, nats.
    """
    found: dict[str, list[Cost]] = {system: [] for system in (*WRITERS, ROUTER, CASCADE)}
    for item in cli.progress(items, "one at a time"):
        own: dict[str, Cost] = {}
        replies: dict[str, Reply] = {}
        for writer in WRITERS:
            names = [server.name for server in servers.of(writer)]
            ask = partial(servers.answer, writer, item, label=_label(item))
            servers.forget_prompts()
            replies[writer], spent = _metered(meter, names, ask)
            # The request leaves the device where the cloud's server gets it.
            sent = replies[writer].request_bytes if servers.cloud in servers.of(writer) else 0
            own[writer] = replace(spent, tokens=replies[writer].tokens, bytes_left=sent)
            found[writer].append(own[writer])
        servers.forget_prompts()
        both = [servers.own.name, servers.cloud.name]
        bits, scoring = _metered(meter, both, partial(servers.prompt_bits, item))
        taken = routed(bits)
        # The prompt goes to the cloud for its score, and not a second time for its answer.
        scoring = replace(scoring, bytes_left=0 if taken == LLM else own[LLM].bytes_left)
        found[ROUTER].append(own[taken].after(scoring))
        asked_twice = escalates(replies[SLM], threshold)
        found[CASCADE].append(own[LLM].after(own[SLM]) if asked_twice else own[SLM])
    fusions = servers.fusions()
    found[FLOE] = [
        replace(cost, bytes_left=cost.bytes_left + fusions[_label(item)].reply_bytes)
        for item, cost in zip(items, found[FLOE], strict=True)
    ]
    return found


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
    cost = Cost(
        seconds=seconds,
        cpu=meter.cpu_between(before, after, names),
        joules=meter.joules_between(before, after),
        tokens=0,
        bytes_left=0,
    )
    return found, cost


def _label(item: Item) -> str:
    return f"cost {item.key}"
