"""The device's llama.cpp with all adapters of a run, and the cloud's vLLM with Floe's processor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from floe_plugins.models import resolve
from integration_tests.demo.federation import Federation
from integration_tests.harness.llama_servers import adapter_ids, slm_server
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
    adapters : dict of str to int
        The id by which the device's server knows each cluster's adapter.
    """

    own: Server
    cloud: Server
    trace: Path
    adapters: dict[str, int]


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
) -> Iterator[Pair]:
    """Start both servers, and stop them on exit.

    Parameters
    ----------
    federation : Federation
        A finished run: its SLM and adapters are served.
    folder : Path
        For logs and the trace of the fusion.
    deadline_ms, first_deadline_ms : float
        See `cloud_spec`.
    waiting : Callable[[str, float], None]
        See `running`.
    """
    logs, slm = folder / "logs", str(federation.manifest["model"])
    trace = new_trace(folder)
    with slm_server(slm, name="slm", logs=logs, adapters=federation.folder, waiting=waiting) as own:
        cloud = cloud_spec(
            own.url,
            slm=slm,
            trace=trace,
            deadline_ms=deadline_ms,
            first_deadline_ms=first_deadline_ms,
        )
        with running(cloud, logs=logs, waiting=waiting) as (far,):
            yield Pair(own, far, trace, adapter_ids(own))


def new_trace(folder: Path) -> Path:
    """Return where the cloud's processor writes its trace; a former one is removed."""
    trace = folder / "fusion.jsonl"
    trace.unlink(missing_ok=True)
    return trace


def cloud_spec(
    expert_url: str,
    *,
    slm: str,
    trace: Path,
    deadline_ms: float,
    first_deadline_ms: float,
    llm: str = CLOUD_MODEL,
    settings: Mapping[str, Any] | None = None,
    variables: Mapping[str, str] | None = None,
) -> ServerSpec:
    """Return the cloud's server, whose expert is the device's.

    Parameters
    ----------
    expert_url : str
        Of the device's server.
    slm : str
        The device's model, whose tokenizer is read.
    trace : Path
        See `new_trace`.
    deadline_ms, first_deadline_ms : float
        Of the device's replies, in milliseconds. Two servers, their front ends and a client share
        two cores here, perhaps with others; where each server has its own machine, the defaults
        will do.
    llm : str (default: CLOUD_MODEL)
        The cloud's model.
    settings : Mapping[str, Any], optional
        Further keys of the processor's configuration; those of ``expert`` are added to its own.
    variables : Mapping[str, str], optional
        Further environment variables.
    """
    told = dict(settings or {})
    expert = {"url": expert_url, "model": "slm", "tokenizer": slm, "trusted": True}
    expert |= told.pop("expert", {})
    return ServerSpec(
        model=resolve(llm),
        name="llm",
        core=1,
        floe={
            "expert": expert,
            "deadline_ms": deadline_ms,
            "first_deadline_ms": first_deadline_ms,
            "trace_file": str(trace),
            **told,
        },
        variables=variables or {},
    )
