"""llama.cpp's server as users start it, `floe-llm slm serve`, as a child process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from integration_tests.harness.deployment import wait_for
from integration_tests.harness.processes import end, free_port, spawn
from integration_tests.harness.vllm_servers import Server, wait


def post(server: Server, route: str, values: dict[str, Any]) -> Any:
    """Return the reply to a request at one of llama.cpp's own routes."""
    url = f"{server.url.removesuffix('/v1')}/{route}"
    reply = httpx.post(url, json=values, timeout=60, trust_env=False)
    return reply.raise_for_status().json()


def counted(server: Server, name: str) -> int:
    """Return one of the server's own counters, such as ``prompt_tokens``."""
    url = f"{server.url.removesuffix('/v1')}/metrics"
    lines = httpx.get(url, timeout=60, trust_env=False).text.splitlines()
    (line,) = [each for each in lines if each.startswith(f"llamacpp:{name}_total ")]
    return int(float(line.split()[-1]))


def adapter_ids(server: Server) -> dict[str, int]:
    """Return name -> id of the adapters, from the line with which the server says it is ready."""

    def said() -> str | None:
        *lines, _ = server.log.read_text("utf-8").split("\n")
        return next((line for line in lines if line.startswith("{")), None)

    # It listens before it says so.
    ready = json.loads(
        wait_for(said, seconds=30, why=lambda: f"it has not said that it is ready: {server.log}")
    )
    return {each["name"]: each["id"] for each in ready["adapters"]}


@contextmanager
def slm_server(
    model: str,
    *,
    name: str,
    logs: Path,
    adapters: Path | None = None,
    context: int = 1024,
    slots: int = 4,
    core: int | None = None,
    metrics: bool = False,
    waiting: Callable[[str, float], None] | None = None,
) -> Iterator[Server]:
    """Start the server with one thread, wait until it answers, and stop it on exit.

    Parameters
    ----------
    model : str
        A GGUF file, or ``embedded:...``.
    name : str
        For its log and for messages; requests may name any model.
    logs : Path
        Folder for its log.
    adapters : Path, optional
        A run's output folder.
    context, slots : int
        See `floe-llm slm serve`.
    core : int, optional
        The CPU core that it computes on; any if not given.
    metrics : bool
        Whether it counts, see `counted`.
    waiting : callable, optional
        Called now and then with the name and the seconds so far.
    """
    logs.mkdir(parents=True, exist_ok=True)
    port = free_port()
    log = logs / f"{name}-{port}.log"
    command = [str(Path(sys.executable).parent / "floe-llm"), "slm", "serve", model]
    command += ["--port", str(port), "--threads", "1", "--json"]
    command += ["--context", str(context), "--slots", str(slots)]
    if metrics:
        command += ["--metrics"]
    if adapters is not None:
        command += ["--adapters", str(adapters)]
    if core is not None:
        command = ["taskset", "--cpu-list", str(core), *command]
    process = spawn(command, log=log, env={"HF_HUB_OFFLINE": "1"})
    server = Server(name=name, url=f"http://127.0.0.1:{port}/v1", log=log, process=process)
    try:
        wait(server, waiting, every_s=0.1)
        yield server
    finally:
        end(process)
