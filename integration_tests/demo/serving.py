"""The device's server with all adapters of a run, and the cloud's with Floe's processor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from floe_plugins.models import resolve
from integration_tests.demo.federation import Federation
from integration_tests.harness.processes import free_port
from integration_tests.harness.vllm_servers import Server, ServerSpec, running

CLOUD_MODEL = "embedded:gemma-3-270m"


@dataclass(frozen=True)
class Pair:
    """The device's server and the cloud's, and the trace of the fusion.

    Attributes
    ----------
    own, cloud : Server
    trace : Path
        The cloud processor's record of every fused token.
    own_model, cloud_model : str
        Folders of their checkpoints.
    """

    own: Server
    cloud: Server
    trace: Path
    own_model: str
    cloud_model: str


def lines_by_label(trace: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of a trace of fusion by the label of their requests, in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for text in trace.read_text("utf-8").splitlines():
        line = json.loads(text)
        found.setdefault(str(line["label"]), []).append(line)
    return found


@contextmanager
def pair_of_servers(
    federation: Federation,
    folder: Path,
    *,
    deadline_ms: float,
    first_deadline_ms: float,
    waiting: Callable[[str, float], None],
    llm: str = CLOUD_MODEL,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Pair]:
    """Start both servers, each on its own core, and stop them on exit.

    Parameters
    ----------
    federation : Federation
        A finished run: its SLM and adapters are served.
    folder : Path
        For logs and the trace of the fusion.
    deadline_ms, first_deadline_ms : float
        Of the device's replies, in milliseconds. Two servers, their front ends and a client share
        two cores here, perhaps with others; where each server has its own machine, the defaults
        will do.
    waiting : Callable[[str, float], None]
        See `running`.
    llm : str (default: CLOUD_MODEL)
        The cloud's model.
    variables : Mapping[str, str], optional
        Further environment variables of both servers.
    """
    trace = folder / "fusion.jsonl"
    trace.unlink(missing_ok=True)
    port = free_port()
    modules = [f"{name}={path}" for name, path in federation.adapters.items()]
    rank = str(federation.manifest["rank"])
    lora = ["--enable-lora", "--max-lora-rank", rank, "--max-loras", str(len(modules))]
    slm = federation.manifest["model"]
    own_model, cloud_model = resolve(slm), resolve(llm)
    device = ServerSpec(
        model=own_model,
        name="slm",
        core=0,
        port=port,
        arguments=[*lora, "--lora-modules", *modules],
        variables=variables or {},
    )
    expert = {"url": f"http://127.0.0.1:{port}/v1", "model": "slm", "tokenizer": slm}
    cloud = ServerSpec(
        model=cloud_model,
        name="llm",
        core=1,
        floe={
            "expert": {**expert, "trusted": True},
            "deadline_ms": deadline_ms,
            "first_deadline_ms": first_deadline_ms,
            "trace_file": str(trace),
        },
        variables=variables or {},
    )
    with running(device, cloud, logs=folder / "logs", waiting=waiting) as (own, far):
        yield Pair(own, far, trace, own_model, cloud_model)
