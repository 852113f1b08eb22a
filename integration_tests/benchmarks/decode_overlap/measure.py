"""Runs hosts with Floe and without it beside an expert of a chosen latency."""

import tempfile
from pathlib import Path
from typing import Any

from floe_plugins.models import resolve
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.decode import servers
from integration_tests.benchmarks.decode.canned_expert import latency_expert
from integration_tests.benchmarks.decode.timed_processor import dial, outside_share
from integration_tests.benchmarks.decode_overlap.drafts import FAR, LOOKAHEAD, measure_drafts
from integration_tests.harness.vllm_servers import running

PARTS = ("overlap", "silence", "lookahead", "drafts")


def measure(options: cli.Namespace) -> dict[str, Any]:
    """Measure the requested parts."""
    values: dict[str, Any] = {"cases": []}
    with tempfile.TemporaryDirectory() as folder:
        if {"overlap", "silence"} & set(options.parts):
            values |= _near(options, Path(folder))
        if "lookahead" in options.parts:
            values |= _far(options, Path(folder))
        if "drafts" in options.parts:
            values |= measure_drafts(options, Path(folder))
    return values


def _near(options: cli.Namespace, logs: Path) -> dict[str, Any]:
    model, times, deadline = resolve(options.host), logs / "times", logs / "deadline"
    found: dict[str, Any] = {}
    dial(deadline, servers.PATIENT["deadline_ms"])
    with latency_expert(logs=logs, core=servers.EXPERT_CORE) as expert:
        section = servers.floe_section(expert.url, tokenizer=model)
        timed = servers.dialled_host(model, floe=section, deadline=deadline, times=times)
        specs = (servers.host(model, "plain"), timed)
        size = {"tokens": options.tokens, "repeats": options.repeats}
        with running(*specs, logs=logs, waiting=servers.starting) as (plain, floe):
            (rate,) = servers.rates([plain], **size)
            if "overlap" in options.parts:
                found["cases"] = []
                for latency in cli.progress(options.latencies, "latencies"):
                    expert.set_latency(latency / rate)
                    alone, fused = servers.rates([plain, floe], **size)
                    case = {
                        "latency_over_step": latency,  # in steps of the host alone
                        "step_ms": 1000 / alone,  # of the host alone, measured with this case
                        "tokens_per_s": fused,
                        "throughput_ratio": fused / alone,
                        "of_slower": fused * max(1 / alone, latency / rate),
                    }
                    found["cases"].append(case)
                found["outside_share"] = outside_share(times)
            if "silence" in options.parts:
                expert.set_latency(None)
                dial(deadline, 1000 / rate)
                alone, fused = servers.rates([plain, floe], **size)
                ratio = fused / alone
                found["silence"] = {"deadline_ms": 1000 / rate, "throughput_ratio": ratio}
    return found


def _far(options: cli.Namespace, logs: Path) -> dict[str, Any]:
    """Measure look-ahead with a real expert that is `FAR` steps away."""
    model, other = resolve(options.far_host), resolve(options.far_expert)
    with latency_expert(logs=logs, core=servers.EXPERT_CORE, model=other) as expert:
        sections = {
            f"lookahead-{steps}": servers.floe_section(expert.url, tokenizer=other, lookahead=steps)
            for steps in (1, LOOKAHEAD)
        }
        specs = [servers.host(model, name, floe=section) for name, section in sections.items()]
        with running(*specs, logs=logs, waiting=servers.starting) as (one, many):
            how: dict[str, Any] = {"tokens": options.tokens, **servers.HOST_ALONE}
            step_s = 1 / servers.tokens_per_second(one, servers.PROMPTS[1], **how)
            expert.set_latency(FAR * step_s)
            size = {"tokens": options.tokens, "repeats": 1}
            prompts = servers.PROMPTS[: options.repeats]
            single, ahead = servers.rates([one, many], prompts=prompts, **size)
    found = {
        "latency_over_step": FAR,
        "step_ms": step_s * 1000,
        "most_steps": LOOKAHEAD,
        "tokens_per_s_of_one": single,
        "tokens_per_s": ahead,
        "gain": ahead / single,
    }
    return {"lookahead": found}
