"""The second half: the user's device runs the gate, then calls its own server or the cloud's."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from floe_plugins.gate import Decision, Gate
from flower_strategy.adapter_choice import ROUTES
from flower_strategy.profile import Form
from integration_tests.demo.federation import DemoError
from integration_tests.demo.prompts import STOP, Prompt
from integration_tests.demo.serving import Pair, lines_by_label
from integration_tests.harness.vllm_servers import Server
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary


@dataclass(frozen=True)
class Written:
    """A server's reply: text, tokens, and whether the text ended before the most tokens."""

    text: str
    tokens: list[str]
    ended: bool


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
    host_text, slm_text : str or None
        What the cloud's model and the device's write alone; None if the prompt was not clear.
    ended : bool
        Whether the answer ends by itself, before the most tokens that it may have.
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
    slm_text: str | None = None
    ended: bool = True
    tokens: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    fused_share: float = 0.0
    deadline_misses: int = 0
    request_bytes: int = 0
    reply_bytes: int = 0

    def take(self, written: Written) -> None:
        """Have a reply for the answer."""
        self.text, self.tokens, self.ended = written.text, written.tokens, written.ended

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
    pair : Pair
        The servers.
    adapters : dict of str to str
        Which cluster adapter answers each prompt.
    forms : mapping of str to str
        The form that each cluster adapter is asked in.
    max_tokens : int
        Most tokens per answer.
    """

    def __init__(
        self,
        *,
        pair: Pair,
        adapters: dict[str, str],
        forms: Mapping[str, Form],
        max_tokens: int,
    ) -> None:
        # Numbers and addresses alone: names are in most prompts, and some are to leave.
        self._gate = Gate(detectors=["card", "email", "iban", "phone", "secret"])
        self._pair = pair
        self._adapters = adapters
        self._forms = forms
        self._max_tokens = max_tokens

    def ask_all(
        self, prompts: Sequence[Prompt], *, heard: Callable[[Answer], None]
    ) -> list[Answer]:
        """Answer all prompts at a time, in order; `heard` is called with each answer's text."""
        answers = []
        with ThreadPoolExecutor(len(prompts)) as asking:
            for answer in asking.map(self._ask, prompts):
                heard(answer)
                answers.append(answer)
        # Every line of the trace is whole by now.
        for answer in answers:
            if answer.host_text is not None:
                self._read_trace(answer)
        return answers

    def _ask(self, prompt: Prompt) -> Answer:
        """Answer a prompt; one that the gate does not clear never leaves the device.

        What the trace says of a fused answer is not read yet.
        """
        verdict = self._gate.decide(prompt.text)
        answer = Answer(prompt, str(verdict.decision), verdict.labels, self._adapters[prompt.name])
        form = self._forms[answer.adapter]
        body = question(prompt.text, form, max_tokens=self._max_tokens)
        body |= {"temperature": 0.0, "stop": list(STOP)}
        by_itself = _send(self._pair.own, {**body, "lora": self._only(answer.adapter)})
        if verdict.decision is not Decision.CLEAR:
            answer.take(by_itself)
            return answer
        # What each model writes alone is for comparison: an answer does not need it.
        answer.slm_text = by_itself.text
        answer.host_text = _send(self._pair.cloud, {**body, "vllm_xargs": {"floe": "host"}}).text
        options = {"floe": "fused", "floe_expert_model": answer.adapter, "floe_label": prompt.name}
        body["vllm_xargs"] = options
        answer.take(_send(self._pair.cloud, body))
        answer.request_bytes = len(json.dumps({"model": self._pair.cloud.name, **body}).encode())
        return answer

    def _only(self, adapter: str) -> list[dict[str, float]]:
        """Return what a request to llama.cpp says to be answered with one adapter."""
        return [
            {"id": place, "scale": float(name == adapter)}
            for name, place in self._pair.adapters.items()
        ]

    def _read_trace(self, answer: Answer) -> None:
        lines = lines_by_label(self._pair.trace).get(answer.prompt.name)
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


def answered(choice: Mapping[str, Any]) -> Written:
    """Return a reply's choice, in either form and of either server."""
    text = choice["text"] if "text" in choice else choice["message"]["content"]
    said = choice["logprobs"]
    # llama.cpp lists a completion's tokens as those of a chat.
    tokens = said["tokens"] if "tokens" in said else [each["token"] for each in said["content"]]
    return Written(str(text or ""), [*map(str, tokens)], choice["finish_reason"] != "length")


def _send(server: Server, body: dict[str, Any]) -> Written:
    route = ROUTES["chat" if "messages" in body else "plain"]
    reply = server.post(route.removeprefix("/v1/"), body)
    if reply.status_code != 200:
        raise DemoError(f"{server.name} answered HTTP {reply.status_code}: {reply.text[:300]}")
    (choice,) = reply.json()["choices"]
    return answered(choice)
