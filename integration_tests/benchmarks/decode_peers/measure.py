"""Runs both orders with the same host and expert."""

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from floe_plugins.models import resolve
from integration_tests.benchmarks.decode import servers
from integration_tests.benchmarks.decode.canned_expert import NAME, LatencyExpert, latency_expert
from integration_tests.harness.processes import free_port
from integration_tests.harness.vllm_servers import ServerSpec, running

#: Below every entropy that is not zero: the expert is asked about each token, after the host.
_ALWAYS_UNSURE: dict[str, Any] = {"ask": "unsure", "unsure_nats": 1e-12}

_ORDERS: dict[str, dict[str, Any]] = {"sequential": _ALWAYS_UNSURE, "floe": {}}


def measure(options: Namespace) -> dict[str, Any]:
    """Run both orders in turn."""
    model, other = resolve(options.host), resolve(options.expert)
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        with _expert(other, latency=options.latency, logs=logs) as (url, canned):
            specs = [
                servers.host(model, name, floe=servers.floe_section(url, tokenizer=other, **extra))
                for name, extra in _ORDERS.items()
            ]
            with running(*specs, logs=logs, waiting=servers.starting) as (sequential, floe):
                alone = servers.tokens_per_second(
                    floe, servers.PROMPTS[1], tokens=options.tokens, **servers.HOST_ALONE
                )
                if canned is not None:
                    canned.set_latency(options.latency / alone)
                sequential_rate, floe_rate = servers.rates(
                    [sequential, floe], tokens=options.tokens, repeats=options.repeats
                )
    return {
        "expert": "vLLM server" if options.latency is None else f"canned, {options.latency} steps",
        "host_tokens_per_s": alone,
        "sequential_tokens_per_s": sequential_rate,
        "floe_tokens_per_s": floe_rate,
        "ratio": floe_rate / sequential_rate,
    }


@contextmanager
def _expert(
    model: str, *, latency: float | None, logs: Path
) -> Iterator[tuple[str, LatencyExpert | None]]:
    """Run the expert; give its URL, and the handle of a canned one."""
    if latency is not None:
        with latency_expert(logs=logs, core=servers.EXPERT_CORE) as canned:
            yield canned.url, canned
        return
    spec = ServerSpec(
        model=model,
        name=NAME,
        core=servers.EXPERT_CORE,
        arguments=["--max-model-len", "512"],
        port=free_port(),
    )
    with running(spec, logs=logs, waiting=servers.starting) as (server,):
        yield server.url, None
