"""Decodes beside an expert of varying latency, at one deadline after the other."""

import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from floe_plugins.models import resolve
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.decode import servers
from integration_tests.benchmarks.decode.canned_expert import LatencyExpert, latency_expert
from integration_tests.benchmarks.decode.timed_processor import dial
from integration_tests.harness.vllm_servers import Server, running

#: Seconds for which the breaker opens: less than Floe's default, so that one answer has tokens
#: before, during and after.
COOLDOWN_S = 1.0


@dataclass(frozen=True)
class Answer:
    """When the tokens of one answer came, in milliseconds."""

    first: float  # from the request to the first token
    gaps: list[float]  # from each token to the next one


def measure(options: cli.Namespace) -> dict[str, Any]:
    """Measure the host alone, then every latency with every deadline."""
    with tempfile.TemporaryDirectory() as folder:
        return _measure(options, Path(folder))


def _measure(options: cli.Namespace, logs: Path) -> dict[str, Any]:
    model, trace, deadline = resolve(options.host), logs / "trace.jsonl", logs / "deadline"
    other = resolve(options.expert) if options.expert else None
    dial(deadline, 1000.0)
    with latency_expert(logs=logs, core=servers.EXPERT_CORE, model=other) as expert:
        section = servers.floe_section(
            expert.url,
            tokenizer=other or model,
            trace_file=str(trace),
            breaker_cooldown_s=COOLDOWN_S,
        )
        spec = servers.dialled_host(model, floe=section, deadline=deadline)
        with running(spec, logs=logs, waiting=servers.starting) as (server,):
            bench = _Bench(server, expert, trace, deadline, options)
            alone = [bench.alone() for _ in range(1 + options.repeats)][1:]
            step_ms = statistics.median(gap for each in alone for gap in each.gaps)
            cells = list(product(options.latencies, options.deadlines))
            measured = []
            for latency, share in cli.progress(cells, "deadlines"):
                bench.reset()
                alone.append(bench.alone())
                sizes = {"latency_ms": latency * step_ms, "deadline_ms": share * step_ms}
                measured.append(bench.cell(**sizes))
    whole = _summary(alone)
    for (latency, share), cell in zip(cells, measured, strict=True):
        cell |= {"latency_steps": latency, "deadline_steps": share}
        step, wait, slowest = whole["token_p50_ms"], cell["deadline_ms"], cell["slowest_token_ms"]
        cell["over_promise_ms"] = slowest - (step + wait)
        cell["over_longer_ms"] = slowest - max(step, wait)
    return {
        **{key: getattr(options, key) for key in ("seed", "sigma", "tokens")},
        "answers_per_cell": options.repeats,
        "breaker_cooldown_s": COOLDOWN_S,
        "step_ms": step_ms,
        "host_alone": whole,
        "cells": measured,
    }


@dataclass
class _Bench:
    """The server under test and what is adjusted between its answers."""

    server: Server
    expert: LatencyExpert
    trace: Path
    deadline: Path
    options: cli.Namespace
    _answers: int = 0

    def alone(self) -> Answer:
        """Return an answer of the host alone."""
        return self._answer(self.options.tokens, floe="host")

    def reset(self) -> None:
        """Wait until the breaker is closed and no late call is in flight."""
        self.expert.set_latency(0.0)
        dial(self.deadline, 10_000.0)
        give_up = time.monotonic() + 30
        while set(outcomes := self._fused(8)[1]) != {"fused"}:
            if time.monotonic() > give_up:
                raise RuntimeError(f"The expert is not heard again: {outcomes}.")
            time.sleep(0.2)

    def cell(self, *, latency_ms: float, deadline_ms: float) -> dict[str, Any]:
        dial(self.deadline, deadline_ms)
        # Each deadline meets the same latencies.
        self.expert.set_latency(latency_ms / 1000, sigma=self.options.sigma, seed=self.options.seed)
        found = [self._fused(self.options.tokens) for _ in range(self.options.repeats)]
        outcomes = Counter(outcome for _, each in found for outcome in each)
        total = outcomes.total()
        shares = {name: outcomes[name] / total for name in ("fused", "late", "open")}
        return {
            "latency_ms": latency_ms,
            "deadline_ms": deadline_ms,
            **_summary([answer for answer, _ in found]),
            **shares,
            "other": 1 - sum(shares.values()),
            "outcomes": dict(outcomes),
        }

    def _fused(self, tokens: int) -> tuple[Answer, list[str]]:
        """Return an answer, and the outcome of each of its tokens."""
        self._answers += 1
        label = str(self._answers)
        answer = self._answer(tokens, floe="fused", floe_label=label)
        lines = map(json.loads, self.trace.read_text(encoding="utf-8").splitlines())
        # The last line of a position counts: a prompt that is read in chunks has several.
        found = {line["position"]: line["outcome"] for line in lines if line["label"] == label}
        return answer, list(found.values())

    def _answer(self, tokens: int, **xargs: str) -> Answer:
        """Decode one greedy answer of exactly `tokens` tokens, noting when each comes."""
        body = {
            "model": self.server.name,
            "prompt": servers.PROMPTS[1],
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


def _summary(answers: Sequence[Answer]) -> dict[str, Any]:
    gaps = [gap for answer in answers for gap in answer.gaps]
    return {
        "token_p50_ms": statistics.median(gaps),
        "token_p99_ms": float(np.percentile(gaps, 99)),
        "slowest_token_ms": max(gaps),
        "first_token_ms": statistics.median(answer.first for answer in answers),
        "answer_ms": statistics.median(answer.first + sum(answer.gaps) for answer in answers),
        "measured_tokens": len(gaps),
    }
