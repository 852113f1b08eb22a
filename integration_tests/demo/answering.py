"""The second half: the user's device asks the gate, then its own server or the cloud's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from floe_plugins.gate import Decision, Gate
from floe_plugins.models import resolve
from integration_tests.demo.federation import DemoError, Federation
from integration_tests.demo.progress import Progress
from integration_tests.demo.prompts import STOP, Prompt
from integration_tests.processes import free_port
from integration_tests.vllm_servers import Server, ServerSpec, running

CLOUD_MODEL = "embedded:gemma-3-270m"


@dataclass
class Answer:
    """One row of the closing table.

    Attributes
    ----------
    prompt, verdict, labels : what was asked, and what the gate said.
    adapter : str
        The cluster adapter that answered, or that the cloud asked.
    text : str
        The answer: fused if the prompt was clear, else the device's own.
    host_text : str or None
        What the cloud's model writes alone; None where it was not asked.
    tokens : list of str
        The answer's tokens.
    weights : list of float
        The expert's weight per token; 0 where the host's logits were kept.
    fused_share : float
        Share of tokens that both models wrote.
    deadline_misses : int
        Tokens for which the device's reply came too late.
    request_bytes, reply_bytes : int
        What left the device: the body of the client's request, and the device server's replies.
    """

    prompt: Prompt
    verdict: str
    labels: tuple[str, ...]
    adapter: str
    text: str = ""
    host_text: str | None = None
    tokens: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    fused_share: float = 0.0
    deadline_misses: int = 0
    request_bytes: int = 0
    reply_bytes: int = 0

    @property
    def mean_weight(self) -> float:
        """Mean weight of the expert over the answer's tokens."""
        return sum(self.weights) / len(self.weights) if self.weights else 0.0

    @property
    def bytes_left(self) -> int:
        """Bytes that left the device for this answer."""
        return self.request_bytes + self.reply_bytes


class Device:
    """The user's device: a gate, a server of its own, and the address of the cloud's.

    Parameters
    ----------
    own, cloud : Server
    adapters : dict of str to str
        Which cluster adapter answers each prompt.
    trace : Path
        The trace that the cloud's processor writes.
    max_tokens : int
        Most tokens per answer.
    """

    def __init__(
        self, *, own: Server, cloud: Server, adapters: dict[str, str], trace: Path, max_tokens: int
    ) -> None:
        # Numbers and addresses alone: names are in most prompts, and some are to leave.
        self._gate = Gate(detectors=["card", "email", "iban", "phone", "secret"])
        self._own, self._cloud = own, cloud
        self._adapters = adapters
        self._trace = trace
        self._max_tokens = max_tokens

    def ask(self, prompt: Prompt) -> Answer:
        """Answer a prompt; one that the gate does not clear never leaves the device."""
        verdict = self._gate.decide(prompt.text)
        answer = Answer(prompt, str(verdict.decision), verdict.labels, self._adapters[prompt.name])
        body = {
            "prompt": prompt.text,
            "max_tokens": self._max_tokens,
            "temperature": 0.0,
            "stop": list(STOP),
            "logprobs": 1,
        }
        if verdict.decision is not Decision.CLEAR:
            answer.text, answer.tokens = _send(self._own, {**body, "model": answer.adapter})
            return answer
        alone = {**body, "vllm_xargs": {"floe": "host"}}
        answer.host_text, _ = _send(self._cloud, alone)
        options = {"floe": "fused", "floe_expert_model": answer.adapter, "floe_label": prompt.name}
        body["vllm_xargs"] = options
        answer.text, answer.tokens = _send(self._cloud, body)
        # The comparison with the host alone is the demonstration's, and no part of an answer.
        answer.request_bytes = len(json.dumps({"model": self._cloud.name, **body}).encode())
        self._read_trace(answer)
        return answer

    def _read_trace(self, answer: Answer) -> None:
        lines = [json.loads(line) for line in self._trace.read_text("utf-8").splitlines()]
        lines = [line for line in lines if line["label"] == answer.prompt.name]
        if not lines:
            raise DemoError(f"The processor left no trace of the prompt {answer.prompt.name!r}.")
        answer.weights = [line["expert_weight"] for line in lines]
        fused = [line for line in lines if line["outcome"] == "fused"]
        answer.fused_share = len(fused) / len(lines)
        answer.deadline_misses = sum(line["outcome"] == "late" for line in lines)
        answer.reply_bytes = sum(line["received_bytes"] for line in lines)


def _send(server: Server, body: dict[str, Any]) -> tuple[str, list[str]]:
    reply = server.post("completions", body)
    if reply.status_code != 200:
        raise DemoError(f"{server.name} answered HTTP {reply.status_code}: {reply.text[:300]}")
    (choice,) = reply.json()["choices"]
    return str(choice["text"]), [str(token) for token in choice["logprobs"]["tokens"]]


@contextmanager
def servers(
    federation: Federation, folder: Path, *, progress: Progress
) -> Iterator[tuple[Server, Server, Path]]:
    """Start the device's server and the cloud's; yield both and the trace of the fusion."""
    trace = folder / "fusion.jsonl"
    port = free_port()
    rank = str(federation.manifest["rank"])
    modules = [f"{name}={path}" for name, path in federation.adapters.items()]
    lora = ["--enable-lora", "--max-lora-rank", rank, "--max-loras", str(len(modules))]
    device = ServerSpec(
        model=resolve(federation.manifest["model"]),
        name="slm",
        core=0,
        dtype="bfloat16",
        port=port,
        arguments=[*lora, "--lora-modules", *modules],
    )
    expert = {"url": f"http://127.0.0.1:{port}/v1", "model": "slm", "trusted": True}
    cloud = ServerSpec(
        model=resolve(CLOUD_MODEL),
        name="llm",
        core=1,
        dtype="bfloat16",
        floe={
            "expert": {**expert, "tokenizer": federation.manifest["model"]},
            # Two servers, their front ends and a client share two cores here, perhaps with others;
            # where each server has its own machine, the default of 250 ms will do.
            "deadline_ms": 3_000,
            "first_deadline_ms": 20_000,
            "trace_file": str(trace),
        },
    )
    trace.unlink(missing_ok=True)
    with running(device, cloud, logs=folder / "logs", waiting=progress.waiting) as (own, far):
        yield own, far, trace
