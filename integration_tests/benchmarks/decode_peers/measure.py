"""Tokens per second of the same host and expert, asked in turn or while the host computes.

Servers of proxy-tuning (Liu et al., COLM 2024) and of GaC (Yu et al., EMNLP Findings 2024) run a
step of one model, call the other, and merge: a token takes both models' time. Here that order is
Floe's own with ``ask: unsure`` and a threshold below every entropy: the call then starts after the
host's forward pass. All else (connections, alignment, fusion) is the same and as fast, so what is
compared is the order alone, to the peers' advantage.

The expert is a real vLLM server on the other core, or with ``--latency`` the canned one of
`latency_expert`, that many host steps away.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from floe_plugins.models import resolve
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.decode.canned_expert import NAME, LatencyExpert, latency_expert
from integration_tests.benchmarks.decode.servers import (
    EXPERT_CORE,
    PROMPTS,
    SMOLLM2,
    floe_section,
    host,
    rates,
    starting,
    tokens_per_second,
)
from integration_tests.harness.processes import free_port
from integration_tests.harness.vllm_servers import ServerSpec, running

#: Below every entropy that is not zero: the expert is asked about each token, after the host.
_ALWAYS_UNSURE: dict[str, Any] = {"ask": "unsure", "unsure_nats": 1e-12}

_ORDERS: dict[str, dict[str, Any]] = {"sequential": _ALWAYS_UNSURE, "floe": {}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = cli.parser("Decoding with a sequential call per token, against Floe.")
    parser.add_argument("--host", default=SMOLLM2, help=f"host's model (default: {SMOLLM2})")
    parser.add_argument("--expert", default=SMOLLM2, help=f"expert's model (default: {SMOLLM2})")
    parser.add_argument(
        "--latency", type=float, metavar="STEPS", help="a canned expert, that many host steps away"
    )
    parser.add_argument("--tokens", type=int, default=64, help="per answer (default: 64)")
    parser.add_argument("--repeats", type=int, default=3, help="answers per figure (default: 3)")
    options = parser.parse_args(arguments)
    if options.tokens < 8 or options.repeats < 1:
        parser.error("--tokens is at least 8 and --repeats at least 1")
    model, other = resolve(options.host), resolve(options.expert)
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        with _expert(other, latency=options.latency, logs=logs) as (url, canned):
            specs = [
                host(model, name, floe=floe_section(url, tokenizer=other, **extra))
                for name, extra in _ORDERS.items()
            ]
            with running(*specs, logs=logs, waiting=starting) as (sequential, floe):
                alone = tokens_per_second(
                    floe, PROMPTS[1], tokens=options.tokens, vllm_xargs={"floe": "host"}
                )
                if canned is not None:
                    canned.set_latency(options.latency / alone)
                figures = rates([sequential, floe], tokens=options.tokens, repeats=options.repeats)
    values: dict[str, Any] = {
        "expert": "vLLM server" if options.latency is None else f"canned, {options.latency} steps",
        "host_tokens_per_s": alone,
        "sequential_tokens_per_s": figures[0],
        "floe_tokens_per_s": figures[1],
        "ratio": figures[1] / figures[0],
    }
    cli.show(
        options,
        values,
        header=list(values),
        rows=[list(values.values())],
        remarks=[
            f"Floe decodes {values['ratio']:.2f} times as many tokens per second as one call after "
            f"the other, {figures[1] / alone:.2f} of the host alone."
        ],
    )
    return 0


@contextmanager
def _expert(
    model: str, *, latency: float | None, logs: Path
) -> Iterator[tuple[str, LatencyExpert | None]]:
    """Run the expert; give its URL, and the handle of a canned one."""
    if latency is not None:
        with latency_expert(logs=logs, core=EXPERT_CORE) as canned:
            yield canned.url, canned
        return
    spec = ServerSpec(
        model=model,
        name=NAME,
        core=EXPERT_CORE,
        arguments=["--max-model-len", "512"],
        port=free_port(),
    )
    with running(spec, logs=logs, waiting=starting) as (server,):
        yield server.url, None


if __name__ == "__main__":
    sys.exit(cli.command(main))
