"""Tokens per second with an expert that answers at a chosen time, over those without one.

The host is vLLM's server on one core, decoding one request; the expert is a process on the other
core (see `latency_expert`). The host's step time without Floe is measured first, and latencies are
shares of it. Three questions:

- overlap: an expert that answers after 0.2 to 2 steps. `of_slower` compares with the slower of the
  two, one token per ``max(step, latency)``. What is missing there is the part of a step in which no
  call can be in flight, `outside_share`, and the way of the call itself;
- silence: an expert that never answers, with the deadline at one step;
- lookahead: Gemma hosts and SmolLM2, a real model, is three steps away: k up to `LOOKAHEAD` tokens
  per call, against one.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from floe_plugins.models import resolve
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.decode.canned_expert import LatencyExpert, latency_expert
from integration_tests.benchmarks.decode.deadlines_processor import dial
from integration_tests.benchmarks.decode.servers import (
    EXPERT_CORE,
    GEMMA,
    PATIENT,
    PROMPTS,
    SMOLLM2,
    floe_section,
    host,
    rates,
    starting,
    timed_host,
    tokens_per_second,
)
from integration_tests.benchmarks.decode.timed_processor import outside_share
from integration_tests.harness.vllm_servers import Server, running

LATENCIES = (0.2, 0.5, 0.8, 1.0, 2.0)
PARTS = ("overlap", "silence", "lookahead")
LOOKAHEAD = 8

#: Least shares of plain vLLM's speed up to a latency of `NEAR` steps, and with a silent expert; of
#: the slower of the two above it.
AIM, NEAR = 0.95, 0.8
AIMS_OF_SLOWER = {1.0: 0.88, 2.0: 0.93}
FAR = 3.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One latency.

    Attributes
    ----------
    latency_over_step : float
        Of the expert, in steps of the host alone.
    step_ms : float
        Milliseconds of a step of the host alone, measured with this case.
    tokens_per_s : float
        With Floe.
    throughput_ratio : float
        Tokens per second with Floe over those without.
    of_slower : float
        Tokens per second with Floe over those of the slower of the two.
    """

    latency_over_step: float
    step_ms: float
    tokens_per_s: float
    throughput_ratio: float
    of_slower: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = cli.parser("Throughput with an expert in flight while the host computes.")
    parser.add_argument("--host", default=SMOLLM2, help=f"host's model (default: {SMOLLM2})")
    parser.add_argument("--far-host", default=GEMMA, help=f"of lookahead (default: {GEMMA})")
    parser.add_argument("--far-expert", default=SMOLLM2, help=f"of lookahead (default: {SMOLLM2})")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--latencies", type=float, nargs="+", default=LATENCIES, metavar="STEPS")
    parser.add_argument("--tokens", type=int, default=64, help="per answer (default: 64)")
    parser.add_argument("--repeats", type=int, default=3, help="answers per figure (default: 3)")
    options = parser.parse_args(arguments)
    if options.tokens < 8 or options.repeats < 1 or min(options.latencies) < 0:
        parser.error("--tokens is at least 8, --repeats at least 1, and no latency is negative")
    values: dict[str, Any] = {"cases": []}
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        if {"overlap", "silence"} & set(options.parts):
            values |= _near(options, logs)
        if "lookahead" in options.parts:
            values |= _far(options, logs)
    cli.show(
        options,
        values,
        header=[field.name for field in fields(Case)],
        rows=[list(case.values()) for case in values["cases"]],
        remarks=_conclusions(values)
        + [
            f"{name}: " + ", ".join(f"{key} {figure:.4g}" for key, figure in values[name].items())
            for name in ("silence", "lookahead")
            if name in values
        ]
        + ([f"outside_share: {values['outside_share']:.3g}"] if "outside_share" in values else []),
    )
    return 0


def _conclusions(values: Mapping[str, Any]) -> list[str]:
    """Hold what was measured against the aims."""
    said = []
    for case in values["cases"]:
        latency = case["latency_over_step"]
        if latency in AIMS_OF_SLOWER:
            said.append((latency, "of the slower", case["of_slower"], AIMS_OF_SLOWER[latency]))
        elif latency <= NEAR:
            said.append((latency, "of plain vLLM", case["throughput_ratio"], AIM))
    shown = "; ".join(
        f"at {latency:g} steps {ratio:.3f} {what} (aim: {aim:g}, "
        + ("met)" if ratio >= aim else f"missed by {aim - ratio:.3f})")
        for latency, what, ratio, aim in said
    )
    return [f"Tokens per second {shown}."] if shown else []


def _near(options: Any, logs: Path) -> dict[str, Any]:
    """Measure overlap and silence."""
    model, times, deadline = resolve(options.host), logs / "times", logs / "deadline"
    found: dict[str, Any] = {}
    dial(deadline, PATIENT["deadline_ms"])
    with latency_expert(logs=logs, core=EXPERT_CORE) as expert:
        section = floe_section(expert.url, tokenizer=model)
        timed = timed_host(model, "floe", floe=section, times=times, deadline=deadline)
        specs = (host(model, "plain"), timed)
        with running(*specs, logs=logs, waiting=starting) as (plain, floe):
            (rate,) = rates([plain], tokens=options.tokens, repeats=options.repeats)
            if "overlap" in options.parts:
                found["cases"] = [
                    asdict(_case(plain, floe, expert, latency, step_s=1 / rate, options=options))
                    for latency in cli.progress(options.latencies, "latencies")
                ]
                found["outside_share"] = outside_share(times)
            if "silence" in options.parts:
                expert.set_latency(None)
                dial(deadline, 1000 / rate)
                alone, fused = rates([plain, floe], tokens=options.tokens, repeats=options.repeats)
                found["silence"] = {
                    "deadline_ms": 1000 / rate,
                    "throughput_ratio": fused / alone,
                }
    return found


def _case(
    plain: Server,
    floe: Server,
    expert: LatencyExpert,
    latency: float,
    *,
    step_s: float,
    options: Any,
) -> Case:
    expert.set_latency(latency * step_s)
    alone, fused = rates([plain, floe], tokens=options.tokens, repeats=options.repeats)
    return Case(
        latency_over_step=latency,
        step_ms=1000 / alone,
        tokens_per_s=fused,
        throughput_ratio=fused / alone,
        of_slower=fused * max(1 / alone, latency * step_s),
    )


def _far(options: Any, logs: Path) -> dict[str, Any]:
    """Measure look-ahead with a real expert that is `FAR` steps away."""
    model, other = resolve(options.far_host), resolve(options.far_expert)
    with latency_expert(logs=logs, core=EXPERT_CORE, model=other) as expert:
        sections = {
            f"lookahead-{steps}": floe_section(expert.url, tokenizer=other, lookahead=steps)
            for steps in (1, LOOKAHEAD)
        }
        specs = [host(model, name, floe=section) for name, section in sections.items()]
        with running(*specs, logs=logs, waiting=starting) as (one, many):
            nobody = {"vllm_xargs": {"floe": "host"}}
            step_s = 1 / tokens_per_second(one, PROMPTS[1], tokens=options.tokens, **nobody)
            expert.set_latency(FAR * step_s)
            prompts = PROMPTS[: max(1, options.repeats)]
            single, ahead = rates([one, many], tokens=options.tokens, repeats=1, prompts=prompts)
    return {
        "lookahead": {
            "latency_over_step": FAR,
            "step_ms": step_s * 1000,
            "most_steps": LOOKAHEAD,
            "tokens_per_s_of_one": single,
            "tokens_per_s": ahead,
            "gain": ahead / single,
        }
    }


if __name__ == "__main__":
    sys.exit(cli.command(main))
