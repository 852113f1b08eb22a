"""vLLM's OpenAI server on CPU, as a child process."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from integration_tests.harness import prepared
from integration_tests.harness.processes import Child, end, end_all, free_port, spawn, tail

START_TIMEOUT_S = 300.0

#: The variable that allows emptying a server's prefix cache.
FORGETS = {"VLLM_SERVER_DEV_MODE": "1"}


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """How to start a server.

    Attributes
    ----------
    model : str
        Folder of the checkpoint.
    name : str
        The name under which it is served.
    core : int
        The CPU core that it computes on; two servers must not share one.
    dtype : str
        In ``float32`` texts depend less on the batch, and processors without instructions for
        bfloat16 compute several rows at a time several times as fast.
    floe : dict or None
        The ``floe`` section of ``--additional-config``; with it the logits processor is loaded.
    arguments : sequence of str
        Further arguments of vLLM; they override those of all servers.
    variables : mapping of str to str
        Further environment variables.
    port : int, optional
        The port; a free one if not given.
    forks : bool
        Whether it may be a fork of a prepared process, where `prepared.prepare` was called: not
        where it depends on what a new interpreter does, as in another environment.
    """

    model: str
    name: str
    core: int
    dtype: str = "float32"
    floe: dict[str, Any] | None = None
    arguments: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    port: int | None = None
    forks: bool = True

    def command(self, port: int) -> list[str]:
        """Return the command line; the module form works with every build of vLLM."""
        return [sys.executable, "-m", prepared.SERVER, *self.options(port)]

    def options(self, port: int) -> list[str]:
        """Return the command line's part after the program."""
        command = ["--model", self.model, "--served-model-name", self.name]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        command += ["--dtype", self.dtype, "--max-model-len", "1024", "--max-num-seqs", "8"]
        command += ["--enforce-eager", "--block-size", "32", "--disable-uvicorn-access-log"]
        if self.floe is not None:
            command += ["--logits-processors", "vllm_logits_processor:FloeLogitsProcessor"]
            command += ["--additional-config", json.dumps({"floe": self.floe})]
        return [*command, *self.arguments]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the server's processes."""
        return {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": str(self.core),
            "VLLM_NO_USAGE_STATS": "1",
            **self.variables,
        }


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server."""

    name: str
    url: str
    log: Path
    process: Child

    def kill(self) -> None:
        """End the server at once, as if its machine had failed."""
        end(self.process, grace_s=0.0)

    def post(self, route: str, body: dict[str, Any], *, timeout_s: float = 300.0) -> httpx.Response:
        """Send a request to ``/v1/<route>``; the model's name is filled in."""
        body = {"model": self.name, **body}
        return httpx.post(f"{self.url}/{route}", json=body, timeout=timeout_s, trust_env=False)

    def complete(self, prompt: str | list[str], **options: Any) -> list[str]:
        """Return one greedy completion per prompt."""
        return [str(choice["text"]) for choice in self.choices(prompt, **options)]

    def tokens(self, prompt: str | list[str], **options: Any) -> list[list[int]]:
        """Return the tokens of one greedy completion per prompt; texts may hide differences."""
        choices = self.choices(prompt, return_token_ids=True, **options)
        return [list(choice["token_ids"]) for choice in choices]

    def choices(self, prompt: str | list[str] | None, **options: Any) -> list[dict[str, Any]]:
        """Return the choices of greedy completions, in order."""
        body = {"prompt": prompt, "max_tokens": 24, "temperature": 0.0, **options}
        reply = self.post("completions", body)
        if reply.status_code != httpx.codes.OK:
            raise RuntimeError(f"{self.name} answered HTTP {reply.status_code}: {reply.text[:500]}")
        choices: list[dict[str, Any]] = reply.json()["choices"]
        return sorted(choices, key=lambda choice: int(choice["index"]))

    def forget_prompts(self) -> None:
        """Empty the prefix cache; the server was started with `FORGETS`."""
        root = self.url.removesuffix("/v1")
        httpx.post(f"{root}/reset_prefix_cache", trust_env=False).raise_for_status()

    def prompts_served(self) -> int:
        """Return how many requests the server has finished, by its own count."""
        return self.counted("request_success")

    def counted(self, name: str) -> int:
        """Return the sum over one of vLLM's counters."""
        text = httpx.get(f"{self.url.removesuffix('/v1')}/metrics", trust_env=False).text
        counter = f"vllm:{name}_total"
        return int(
            sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(counter))
        )


@contextmanager
def running(
    *specs: ServerSpec, logs: Path, waiting: Callable[[str, float], None] | None = None
) -> Iterator[list[Server]]:
    """Start servers side by side, wait until all answer, and stop them on exit.

    Parameters
    ----------
    *specs : ServerSpec
    logs : Path
        Folder for their logs.
    waiting : callable, optional
        Called about once a second with the name of the server waited for and the seconds so far.

    Raises
    ------
    RuntimeError
        If a server ends or does not answer in time; quotes the end of its log.
    """
    logs.mkdir(parents=True, exist_ok=True)
    servers: list[Server] = []
    try:
        for spec in specs:
            port = spec.port or free_port()
            log = logs / f"{spec.name}-{port}.log"
            process = _start(spec, port, log)
            url = f"http://127.0.0.1:{port}/v1"
            servers.append(Server(name=spec.name, url=url, log=log, process=process))
        for server in servers:
            wait(server, waiting)
        yield servers
    finally:
        end_all([server.process for server in servers])


def _start(spec: ServerSpec, port: int, log: Path) -> Child:
    if spec.forks and prepared.is_prepared():
        return prepared.fork(prepared.SERVER, spec.options(port), log=log, env=spec.environment)
    return spawn(spec.command(port), log=log, env=spec.environment)


def wait(
    server: Server,
    waiting: Callable[[str, float], None] | None,
    *,
    every_s: float = 1.0,
) -> None:
    """Wait until a server answers; see `running`."""
    begun = time.monotonic()
    while (spent := time.monotonic() - begun) < START_TIMEOUT_S:
        if server.process.poll() is not None:
            raise RuntimeError(
                f"The server {server.name!r} ended with code {server.process.returncode} while it "
                f"started:\n{tail(server.log)}"
            )
        try:
            if httpx.get(f"{server.url}/models", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if waiting is not None:
            waiting(server.name, spent)
        time.sleep(every_s)
    raise RuntimeError(
        f"The server {server.name!r} did not answer in {START_TIMEOUT_S:.0f} s:\n{tail(server.log)}"
    )
