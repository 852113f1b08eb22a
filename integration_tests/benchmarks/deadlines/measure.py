"""Milliseconds per token and per answer under deadlines, with an expert whose latency scatters.

The host is vLLM's server with Floe on one core, decoding one request; the expert is a process on
the other core whose answers leave at log-normal latencies with a long tail (see `latency_expert`).
The host's step is measured first, with requests that Floe leaves alone, and latencies and deadlines
are shares of it. One server is measured at all deadlines (see `deadlines_processor`), and each cell
begins with answers of the host alone, so that both see the same machine.

Floe counts a deadline from the start of a call, which is before the host's forward pass. So no
token should come later than a step of the host plus the deadline: that is the promise which the
slowest token of each cell is held against. What Floe aims for is more, the longer of the two, since
they run at the same time; the slowest tokens are held against that as well.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from floe_plugins.errors import FloeError
from floe_plugins.models import resolve
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.decode.canned_expert import LatencyExpert, latency_expert
from integration_tests.benchmarks.decode.deadlines_processor import CLASS, FILE, dial
from integration_tests.benchmarks.decode.servers import (
    EXPERT_CORE,
    PROMPTS,
    SMOLLM2,
    floe_section,
    host,
    starting,
)
from integration_tests.harness.vllm_servers import Server, ServerSpec, running

LATENCIES = (0.5, 1.0, 2.0)
DEADLINES = (0.5, 1.0, 1.5, 2.0, 4.0)
SIGMA = 0.6

#: Seconds for which the breaker opens: less than Floe's default, so that one answer has tokens
#: before, during and after.
COOLDOWN_S = 1.0

_HEADER = (
    "latency, steps",
    "deadline, steps",
    "deadline, ms",
    "token p50, ms",
    "p99, ms",
    "slowest, ms",
    "over the promise, ms",
    "answer, ms",
    "fused",
    "late",
    "open",
    "other",
)


@dataclass(frozen=True)
class Answer:
    """When the tokens of one answer came.

    Attributes
    ----------
    first_ms : float
        From the request to its first token.
    gaps_ms : list of float
        From each token to the next one.
    """

    first_ms: float
    gaps_ms: list[float]

    @property
    def milliseconds(self) -> float:
        """From the request to its last token."""
        return self.first_ms + sum(self.gaps_ms)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = cli.parser("Latency per token and per answer under deadlines.")
    add = parser.add_argument
    add("--host", default=SMOLLM2, help=f"host's model (default: {SMOLLM2})")
    add("--expert", metavar="MODEL", help="a real expert; its answers are canned without it")
    steps: dict[str, Any] = {"type": float, "nargs": "+", "metavar": "STEPS"}
    add("--latencies", default=LATENCIES, help="the expert's, medians, in host steps", **steps)
    add("--deadlines", default=DEADLINES, help="in host steps", **steps)
    add(
        "--sigma",
        type=float,
        default=SIGMA,
        help=f"scatter of the latencies' logarithms (default: {SIGMA})",
    )
    add("--tokens", type=int, default=32, help="per answer (default: 32)")
    add("--repeats", type=int, default=2, help="answers per cell (default: 2)")
    add("--seed", type=int, default=0, help="of the latencies (default: 0)")
    options = parser.parse_args(arguments)
    if options.tokens < 8 or options.repeats < 1:
        parser.error("--tokens is at least 8 and --repeats at least 1")
    if min(options.latencies) <= 0 or min(options.deadlines) <= 0 or options.sigma < 0:
        parser.error("latencies and deadlines are above 0, and --sigma is not negative")
    try:
        with tempfile.TemporaryDirectory() as folder:
            values = _measure(options, Path(folder))
    except FloeError as error:
        return cli.failed(error)
    cli.show(
        options,
        values,
        header=_HEADER,
        rows=[_alone_row(values), *(_row(cell) for cell in values["cells"])],
        remarks=_remarks(values),
    )
    return 0


def _measure(options: Any, logs: Path) -> dict[str, Any]:
    model, trace, deadline = resolve(options.host), logs / "trace.jsonl", logs / "deadline"
    other = resolve(options.expert) if options.expert else None
    dial(deadline, 1000.0)
    with latency_expert(logs=logs, core=EXPERT_CORE, model=other) as expert:
        section = floe_section(
            expert.url,
            tokenizer=other or model,
            trace_file=str(trace),
            breaker_cooldown_s=COOLDOWN_S,
        )
        spec = _dialled(model, floe=section, deadline=deadline)
        with running(spec, logs=logs, waiting=starting) as (server,):
            bench = _Bench(server, expert, trace, deadline, options)
            alone = [bench.alone() for _ in range(1 + options.repeats)][1:]
            step_ms = statistics.median(gap for each in alone for gap in each.gaps_ms)
            cells = [
                (latency, share) for latency in options.latencies for share in options.deadlines
            ]
            measured = []
            for latency, share in cli.progress(cells, "deadlines"):
                bench.reset()
                alone.append(bench.alone())
                measured.append(
                    bench.cell(latency_ms=latency * step_ms, deadline_ms=share * step_ms)
                )
    whole = _summary(alone)
    for (latency, share), cell in zip(cells, measured, strict=True):
        cell |= {"latency_steps": latency, "deadline_steps": share}
        step, wait, slowest = whole["token_p50_ms"], cell["deadline_ms"], cell["slowest_token_ms"]
        cell["over_promise_ms"] = slowest - (step + wait)
        cell["over_longer_ms"] = slowest - max(step, wait)
    return {
        "seed": options.seed,
        "sigma": options.sigma,
        "tokens": options.tokens,
        "answers_per_cell": options.repeats,
        "breaker_cooldown_s": COOLDOWN_S,
        "step_ms": step_ms,
        "host_alone": whole,
        "cells": measured,
    }


def _dialled(model: str, *, floe: Mapping[str, Any], deadline: Path) -> ServerSpec:
    spec = host(model, "floe", floe=floe)
    return replace(
        spec,
        # The later option counts.
        arguments=[*spec.arguments, "--logits-processors", CLASS],
        variables={**spec.variables, FILE: str(deadline)},
    )


@dataclass
class _Bench:
    """The server under test and what is turned between its answers."""

    server: Server
    expert: LatencyExpert
    trace: Path
    deadline: Path
    options: Any
    _answers: int = 0

    def alone(self) -> Answer:
        """Return an answer that Floe has no part in."""
        return self._answer(self.options.tokens, floe="host")

    def reset(self) -> None:
        """Wait until the breaker is closed and no late call is on its way."""
        self.expert.set_latency(0.0)
        dial(self.deadline, 10_000.0)
        give_up = time.monotonic() + 30
        while set(self._outcomes(label := self._asked(8))) != {"fused"}:
            if time.monotonic() > give_up:
                raise RuntimeError(f"The expert is not heard again: {self._outcomes(label)}.")
            time.sleep(0.2)

    def cell(self, *, latency_ms: float, deadline_ms: float) -> dict[str, Any]:
        """Return the figures of one latency and one deadline."""
        dial(self.deadline, deadline_ms)
        # Each deadline meets the same latencies.
        self.expert.set_latency(latency_ms / 1000, sigma=self.options.sigma, seed=self.options.seed)
        answers, outcomes = [], Counter[str]()
        for _ in range(self.options.repeats):
            label = self._label()
            answers.append(self._answer(self.options.tokens, floe="fused", floe_label=label))
            outcomes.update(self._outcomes(label))
        total = outcomes.total()
        shares = {name: outcomes[name] / total for name in ("fused", "late", "open")}
        return {
            "latency_ms": latency_ms,
            "deadline_ms": deadline_ms,
            **_summary(answers),
            **shares,
            "other": 1 - sum(shares.values()),
            "outcomes": dict(outcomes),
        }

    def _label(self) -> str:
        self._answers += 1
        return str(self._answers)

    def _asked(self, tokens: int) -> str:
        label = self._label()
        self._answer(tokens, floe="fused", floe_label=label)
        return label

    def _answer(self, tokens: int, **xargs: str) -> Answer:
        """Decode one greedy answer of exactly `tokens` tokens, noting when each comes."""
        body = {
            "model": self.server.name,
            "prompt": PROMPTS[1],
            "max_tokens": tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            "return_token_ids": True,
            "vllm_xargs": xargs,
        }
        url, times = f"{self.server.url}/completions", [time.perf_counter()]
        with httpx.stream("POST", url, json=body, timeout=120, trust_env=False) as reply:
            reply.raise_for_status()
            for line in reply.iter_lines():
                if not line.startswith("data: {"):
                    continue
                now = time.perf_counter()
                # Tokens of one chunk come at once: the first of them has waited for it.
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    times += [now] * len(choice["token_ids"] or ())
        if len(times) != tokens + 1:
            raise RuntimeError(f"The server gave {len(times) - 1} tokens instead of {tokens}.")
        first, *gaps = (1000 * np.diff(times)).tolist()
        return Answer(first, gaps)

    def _outcomes(self, label: str) -> list[str]:
        """Return what came of each token of an answer."""
        lines = map(json.loads, self.trace.read_text(encoding="utf-8").splitlines())
        # The last word on a position counts: a prompt that is read in pieces has several.
        found = {line["position"]: line["outcome"] for line in lines if line["label"] == label}
        return list(found.values())


def _summary(answers: Sequence[Answer]) -> dict[str, Any]:
    gaps = [gap for answer in answers for gap in answer.gaps_ms]
    return {
        "token_p50_ms": statistics.median(gaps),
        "token_p99_ms": float(np.percentile(gaps, 99)),
        "slowest_token_ms": max(gaps),
        "first_token_ms": statistics.median(answer.first_ms for answer in answers),
        "answer_ms": statistics.median(answer.milliseconds for answer in answers),
        "measured_tokens": len(gaps),
    }


def _alone_row(values: Mapping[str, Any]) -> list[Any]:
    alone = values["host_alone"]
    times = [alone[key] for key in ("token_p50_ms", "token_p99_ms", "slowest_token_ms")]
    return ["host alone", "-", "-", *times, "-", alone["answer_ms"], *("-" * 4)]


def _row(cell: Mapping[str, Any]) -> list[Any]:
    return [
        *(cell[key] for key in ("latency_steps", "deadline_steps", "deadline_ms")),
        *(cell[key] for key in ("token_p50_ms", "token_p99_ms", "slowest_token_ms")),
        *(cell[key] for key in ("over_promise_ms", "answer_ms")),
        *(f"{cell[key]:.0%}" for key in ("fused", "late", "open", "other")),
    ]


def _range(values: Sequence[float]) -> str:
    middle = statistics.median(values)
    return f"{min(values):.1f} to {max(values):.1f}, in the middle {middle:.1f}"


def _remarks(values: Mapping[str, Any]) -> list[str]:
    cells, alone = values["cells"], values["host_alone"]
    over = [cell for cell in cells if cell["over_promise_ms"] > 0]
    worst = max(cells, key=lambda cell: cell["over_promise_ms"])
    tokens = sum(cell["measured_tokens"] for cell in cells)
    by_itself = alone["slowest_token_ms"] - alone["token_p50_ms"]
    said = f"{abs(worst['over_promise_ms']):.1f} ms " + ("above" if over else "below")
    kept = len(cells) - len(over)
    remarks = [
        f"No token later than a step of the host plus the deadline: kept in {kept} "
        f"of {len(cells)} cells ({tokens} tokens); the worst token came {said} that "
        f"(latency {worst['latency_steps']:g}, deadline {worst['deadline_steps']:g} steps). The "
        f"host alone has tokens {by_itself:.1f} ms above its own median step of "
        f"{alone['token_p50_ms']:.1f} ms ({alone['measured_tokens']} tokens).",
        "Above the longer of step and deadline, the slowest token of a cell came "
        f"{_range([cell['over_longer_ms'] for cell in cells])} ms.",
    ]
    for latency in dict.fromkeys(cell["latency_steps"] for cell in cells):
        row = [cell for cell in cells if cell["latency_steps"] == latency]
        spent = ", ".join(
            f"{cell['deadline_steps']:g}: {cell['fused']:.0%} fused at "
            f"{cell['answer_ms'] / alone['answer_ms']:.2f} times"
            for cell in row
        )
        remarks.append(
            f"Expert {latency:g} steps away, by deadline in steps, tokens fused and the time of an "
            f"answer over the host's alone: {spent}."
        )
    return remarks


if __name__ == "__main__":
    sys.exit(cli.command(main))
