"""The two servers: the device's with all adapters of a run, the cloud's with Floe's processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from floe_plugins.models import resolve
from integration_tests.benchmarks.answers.asking import Servers
from integration_tests.demo.federation import Federation
from integration_tests.processes import free_port
from integration_tests.vllm_servers import ServerSpec, running

#: Without instructions for bfloat16, which many processors lack, matrix products of several rows
#: are several times faster in float32; prompts and batches are such.
_DTYPE = "float32"


@contextmanager
def serving(
    federation: Federation, folder: Path, *, llm: str, waiting: Callable[[str, float], None]
) -> Iterator[Servers]:
    """Start both servers, each on a core of its own, and end them on the way out.

    Parameters
    ----------
    federation : Federation
        A finished run: its SLM and adapters are served.
    folder : Path
        For logs and the trace of the fusion.
    llm : str
        The cloud's model.
    waiting : Callable[[str, float], None]
        See `running`.
    """
    trace = folder / "fusion.jsonl"
    trace.unlink(missing_ok=True)
    port = free_port()
    modules = [f"{name}={path}" for name, path in federation.adapters.items()]
    rank = str(federation.manifest["rank"])
    lora = ["--enable-lora", "--max-lora-rank", rank, "--max-loras", str(len(modules))]
    small, large = resolve(federation.manifest["model"]), resolve(llm)
    device = ServerSpec(
        model=small,
        name="slm",
        core=0,
        dtype=_DTYPE,
        port=port,
        arguments=[*lora, "--lora-modules", *modules],
    )
    cloud = ServerSpec(
        model=large,
        name="llm",
        core=1,
        dtype=_DTYPE,
        floe={
            "expert": {
                "url": f"http://127.0.0.1:{port}/v1",
                "model": "slm",
                "trusted": True,
                "tokenizer": federation.manifest["model"],
            },
            # Eight streams at a time on two cores: a late call would measure the machine's speed,
            # and this benchmark is about what the two models say together.
            "deadline_ms": 10_000,
            "first_deadline_ms": 60_000,
            "trace_file": str(trace),
        },
    )
    with running(device, cloud, logs=folder / "logs", waiting=waiting) as (own, far):
        yield Servers(own, far, trace, small, large)
