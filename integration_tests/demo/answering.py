"""The second half: the user's device runs the gate, then calls its own server or the cloud's."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from floe_plugins.gate import Decision, Gate
from flower_strategy.adapter_choice import ROUTES
from flower_strategy.profile import Form
from integration_tests.demo.federation import DemoError
from integration_tests.demo.prompts import STOP, Prompt
from integration_tests.demo.serving import lines_by_label
from integration_tests.harness.vllm_servers import Server
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary


@dataclass
class Answer:
    """One row of the closing table.

    Attributes
    ----------
    prompt, verdict, labels : what was asked, and what the gate said.
    adapter : str
        The cluster adapter that answered, or that the cloud called.
    text : str
        The answer: fused if the prompt was clear, else the device's own.
    host_text : str or None
        What the cloud's model writes alone; None if it was not called.
    tokens : list of str
        The answer's tokens.
    weights : list of float
        The expert's weight per token; 0 where the host's logits were kept.
    fused_share : float
        Share of tokens that both models wrote.
    deadline_misses : int
        Tokens for which the device's reply was too late.
    request_bytes, reply_bytes : int
        Bytes sent: the body of the client's request, and the device server's replies.
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
    forms : mapping of str to str
        The form that each cluster adapter is asked in.
    trace : Path
        The trace that the cloud's processor writes.
    max_tokens : int
        Most tokens per answer.
    """

    def __init__(
        self,
        *,
        own: Server,
        cloud: Server,
        adapters: dict[str, str],
        forms: Mapping[str, Form],
        trace: Path,
        max_tokens: int,
    ) -> None:
        # Numbers and addresses alone: names are in most prompts, and some are to leave.
        self._gate = Gate(detectors=["card", "email", "iban", "phone", "secret"])
        self._own, self._cloud = own, cloud
        self._adapters = adapters
        self._forms = forms
        self._trace = trace
        self._max_tokens = max_tokens

    def warm_up(self) -> None:
        """Write a token with every adapter: a server reads one at its first use.

        Otherwise the first answers' tokens would be the cloud's, as they are whenever the device's
        first reply takes longer than the deadline.
        """
        for adapter in sorted(set(self._adapters.values())):
            body = question("Hi", self._forms[adapter], max_tokens=1)
            _send(self._own, {**body, "model": adapter})

    def ask(self, prompt: Prompt) -> Answer:
        """Answer a prompt; one that the gate does not clear never leaves the device."""
        verdict = self._gate.decide(prompt.text)
        answer = Answer(prompt, str(verdict.decision), verdict.labels, self._adapters[prompt.name])
        form = self._forms[answer.adapter]
        body = question(prompt.text, form, max_tokens=self._max_tokens)
        body |= {"temperature": 0.0, "stop": list(STOP)}
        if verdict.decision is not Decision.CLEAR:
            answer.text, answer.tokens = _send(self._own, {**body, "model": answer.adapter})
            return answer
        alone = {**body, "vllm_xargs": {"floe": "host"}}
        answer.host_text, _ = _send(self._cloud, alone)
        options = {"floe": "fused", "floe_expert_model": answer.adapter, "floe_label": prompt.name}
        body["vllm_xargs"] = options
        answer.text, answer.tokens = _send(self._cloud, body)
        # The comparison with the host alone belongs to the demonstration, not to an answer.
        answer.request_bytes = len(json.dumps({"model": self._cloud.name, **body}).encode())
        self._read_trace(answer)
        return answer

    def _read_trace(self, answer: Answer) -> None:
        lines = lines_by_label(self._trace).get(answer.prompt.name)
        if not lines:
            raise DemoError(f"The processor left no trace of the prompt {answer.prompt.name!r}.")
        answer.weights = [line["expert_weight"] for line in lines]
        fused = [line for line in lines if line["outcome"] == "fused"]
        answer.fused_share = len(fused) / len(lines)
        answer.deadline_misses = sum(line["outcome"] == "late" for line in lines)
        answer.reply_bytes = sum(line["received_bytes"] for line in lines)


def check_forms(forms: Collection[Form], cloud_model: str) -> None:
    """Check that the cloud's model can ask adapters of these forms.

    Raises
    ------
    DemoError
        It has no chat template, and an adapter was trained with one: it would be asked in the form
        of plain text, and answer worse than it can.
    """
    if "chat" in forms and ByteVocabulary.from_pretrained(cloud_model).template is None:
        raise DemoError(
            "The run's adapters were trained with the chat template, and the cloud's model has "
            "none to ask them by: train with template='none'."
        )


def question(prompt: str, form: Form, *, max_tokens: int) -> dict[str, Any]:
    """Return the body of a request in a form: one token's logprobs, which show the tokens."""
    if form == "plain":
        return {"prompt": prompt, "max_tokens": max_tokens, "logprobs": 1}
    messages = [{"role": "user", "content": prompt}]
    return {"messages": messages, "max_tokens": max_tokens, "logprobs": True}


def answered(choice: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return text and tokens of a reply's choice, in either form."""
    if "text" in choice:
        return str(choice["text"]), [str(token) for token in choice["logprobs"]["tokens"]]
    tokens = [str(token["token"]) for token in choice["logprobs"]["content"]]
    return str(choice["message"]["content"] or ""), tokens


def _send(server: Server, body: dict[str, Any]) -> tuple[str, list[str]]:
    route = ROUTES["chat" if "messages" in body else "plain"]
    reply = server.post(route.removeprefix("/v1/"), body)
    if reply.status_code != 200:
        raise DemoError(f"{server.name} answered HTTP {reply.status_code}: {reply.text[:300]}")
    (choice,) = reply.json()["choices"]
    return answered(choice)
