"""The five ways to answer, over the same two servers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from floe_plugins.gate import Decision, Gate
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.decode.servers import EXPERT_CORE, HOST_CORE, PATIENT, starting
from integration_tests.benchmarks.gate.data import Prompt
from integration_tests.benchmarks.privacy.relay import Relay, Request, relay
from integration_tests.harness.processes import free_port
from integration_tests.harness.vllm_servers import FORGETS, Server, ServerSpec, running

SYSTEMS = ("llm-only", "router", "router+gate", "floe", "slm-only")

#: Requests that are under way at a time.
_AT_ONCE = 8


@dataclass(frozen=True)
class Run:
    """One system's answers.

    Attributes
    ----------
    requests : list of Request
        What the relay saw.
    answers : list of str
        In the order of the prompts.
    seconds : float
        For all of them, `_AT_ONCE` at a time.
    """

    requests: list[Request]
    answers: list[str]
    seconds: float


class Systems:
    """Device and cloud.

    Parameters
    ----------
    slm : Server
        On the device, with Floe.
    llm : Server
        The cloud's, as the device reaches it: through `wire`.
    wire : Relay
    tokens : int
        Most tokens of an answer.
    """

    def __init__(self, slm: Server, llm: Server, wire: Relay, *, tokens: int) -> None:
        self._slm, self._llm, self._wire = slm, llm, wire
        self._tokens = tokens
        self._gate = Gate()
        self._likelihoods: dict[str, float] = {}
        self._scoring_s = 0.0

    def run(self, name: str, prompts: Sequence[Prompt]) -> Run:
        """Answer all prompts with one system; no server remembers any from before."""
        if name.startswith("router") and not self._likelihoods:
            self._score(prompts)
        for server in (self._slm, self._llm):
            server.forget_prompts()
        # Resetting is none of the system's requests.
        self._wire.taken()
        begun = time.perf_counter()
        ways = self._ways(name, prompts)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = list(
                cli.progress(
                    pool.map(lambda way, each: way(each.text), ways, prompts),
                    name,
                    total=len(prompts),
                )
            )
        seconds = time.perf_counter() - begun
        # Both routers need the scores, which are the same.
        seconds += self._scoring_s if name.startswith("router") else 0.0
        return Run(self._wire.taken(), answers, seconds)

    def _ways(self, name: str, prompts: Sequence[Prompt]) -> list[Callable[[str], str]]:
        """Return who answers each prompt."""
        if not name.startswith("router"):
            ways = {"llm-only": self._by_llm, "floe": self._by_floe, "slm-only": self._by_slm}
            return [ways[name]] * len(prompts)
        likely = [self._likelihoods[prompt.text] for prompt in prompts]
        middle = statistics.median(likely)
        goes = [each < middle for each in likely]
        if name == "router+gate":
            goes = [
                each and self._gate.decide(prompt.text).decision is Decision.CLEAR
                for each, prompt in zip(goes, prompts, strict=True)
            ]
        return [self._by_llm if each else self._by_slm for each in goes]

    def _score(self, prompts: Sequence[Prompt]) -> None:
        begun = time.perf_counter()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(self._likelihood, prompts))
        self._likelihoods = {each.text: value for each, value in zip(prompts, found, strict=True)}
        self._scoring_s = time.perf_counter() - begun

    def _likelihood(self, prompt: Prompt) -> float:
        """Return the mean log-probability that the SLM gives to the prompt's tokens, nats."""
        (choice,) = self._slm.choices(
            prompt.text, max_tokens=1, prompt_logprobs=0, vllm_xargs={"floe": "host"}
        )
        # The first token has nothing before it.
        said = [next(iter(each.values()))["logprob"] for each in choice["prompt_logprobs"] if each]
        return statistics.fmean(said) if said else 0.0

    def _by_llm(self, text: str) -> str:
        return self._llm.complete(text, max_tokens=self._tokens)[0]

    def _by_slm(self, text: str) -> str:
        return self._slm.complete(text, max_tokens=self._tokens, vllm_xargs={"floe": "host"})[0]

    def _by_floe(self, text: str) -> str:
        return self._slm.complete(text, max_tokens=self._tokens, vllm_xargs={"floe": "fused"})[0]


@contextmanager
def device_and_cloud(slm: str, llm: str, *, logs: Path, tokens: int) -> Iterator[Systems]:
    """Run both servers with the relay between them.

    Parameters
    ----------
    slm, llm : str
        Folders of checkpoints.
    logs : Path
    tokens : int
        Most tokens of an answer.
    """
    port = free_port()
    with relay(f"http://127.0.0.1:{port}/v1") as wire:
        expert = {"url": wire.url, "model": "llm", "tokenizer": llm, "trusted": False}
        specs = (
            _server(slm, "slm", core=HOST_CORE, floe={"expert": expert, **PATIENT}),
            replace(_server(llm, "llm", core=EXPERT_CORE), port=port),
        )
        with running(*specs, logs=logs, waiting=starting) as (device, cloud):
            yield Systems(device, replace(cloud, url=wire.url), wire, tokens=tokens)


def _server(model: str, name: str, *, core: int, floe: dict[str, Any] | None = None) -> ServerSpec:
    return ServerSpec(
        model=model,
        name=name,
        core=core,
        floe=floe,
        arguments=["--max-model-len", "512", "--max-num-seqs", str(_AT_ONCE)],
        variables={"VLLM_USE_V2_MODEL_RUNNER": "0", **FORGETS},
    )
