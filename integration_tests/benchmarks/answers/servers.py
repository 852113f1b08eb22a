"""The two servers asked: answers of each system that writes itself, and scores of prompts."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.answers.tasks import Task
from integration_tests.demo.serving import Pair, lines_by_label
from integration_tests.harness.vllm_servers import Server
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

#: The systems that write answers; the others choose between these.
LLM, SLM_BASE, SLM, FLOE = WRITERS = ("llm", "slm-base", "slm", "floe")

#: Requests on their way to one server: as many as it takes into a step.
_CONCURRENT = 8

_Given = TypeVar("_Given")
_Found = TypeVar("_Found")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question.

    Attributes
    ----------
    key : str
        Names it in the trace of the fusion; no other item has it.
    task : Task
    question : str
        The prompt without what stands in front of it, the same for all items of the task.
    prompt, reference : str
    adapter : str
        The cluster adapter whose task is closest to the prompt.
    """

    key: str
    task: Task
    question: str
    prompt: str
    reference: str
    adapter: str


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """What the trace says of one fused answer: tokens by outcome, and the expert's replies."""

    tokens: int = 0
    fused: int = 0
    late: int = 0
    expert_weight: float = 0.0
    reply_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer.

    Attributes
    ----------
    text : str
    tokens : int
    logprob : float
        Mean log-probability of its tokens, nats; -inf for an answer without any.
    request_bytes : int
        Body of the request.
    seconds : float
        From the request to the whole answer.
    """

    text: str
    tokens: int
    logprob: float
    request_bytes: int
    seconds: float


@dataclass(frozen=True)
class Servers(Pair):
    """The device's server and the cloud's, asked as the systems ask them."""

    def of(self, system: str) -> tuple[Server, ...]:
        """Return the servers that work on a writer's answer."""
        both = {LLM: (self.cloud,), FLOE: (self.own, self.cloud)}
        return both.get(system, (self.own,))

    def forget_prompts(self) -> None:
        """Empty both prefix caches."""
        for server in (self.own, self.cloud):
            server.forget_prompts()

    def answer(self, system: str, item: Item, *, label: str | None = None) -> Reply:
        """Let one of the writers answer.

        Parameters
        ----------
        system : str
        item : Item
        label : str, optional
            What the trace calls a fused answer; the item's key if not given.
        """
        body: dict[str, Any] = {
            "prompt": item.prompt,
            "max_tokens": item.task.max_tokens,
            "temperature": 0.0,
            "stop": list(item.task.stop),
            "logprobs": 0,
        }
        server = self.cloud if system in (LLM, FLOE) else self.own
        if system == SLM:
            body["model"] = item.adapter
        elif system == LLM:
            body["vllm_xargs"] = {"floe": "host"}
        elif system == FLOE:
            body["vllm_xargs"] = {
                "floe": "fused",
                "floe_expert_model": item.adapter,
                "floe_label": label or item.key,
            }
        begun = time.perf_counter()
        (choice,) = server.choices(**body)
        seconds = time.perf_counter() - begun
        logprobs = choice["logprobs"]["token_logprobs"]
        return Reply(
            text=str(choice["text"]),
            tokens=len(logprobs),
            logprob=sum(logprobs) / len(logprobs) if logprobs else -math.inf,
            request_bytes=len(json.dumps({"model": server.name, **body}).encode()),
            seconds=seconds,
        )

    def answers(self, system: str, items: Sequence[Item]) -> dict[str, Reply]:
        """Let a writer answer all items, several at a time; key -> answer."""
        found = _at_once(lambda item: self.answer(system, item), items, system)
        return {item.key: reply for item, reply in zip(items, found, strict=True)}

    def prompt_bits(self, item: Item) -> dict[str, float]:
        """Return bits per byte that the LLM and the SLM with its adapter need for the question."""
        data = item.question.encode()
        asked = (
            (LLM, self.cloud, self._vocabularies[0], {"vllm_xargs": {"floe": "host"}}),
            (SLM, self.own, self._vocabularies[1], {"model": item.adapter}),
        )

        def score(each: tuple[str, Server, ByteVocabulary, dict[str, Any]]) -> float:
            _, server, vocabulary, options = each
            # An end token stands in front where there is no BOS, so that all bytes are scored.
            front = list(vocabulary.bos_ids) or [min(vocabulary.end_ids)]
            ids: Any = [*front, *vocabulary.encode(data)]
            (choice,) = server.choices(ids, max_tokens=1, prompt_logprobs=0, **options)
            scored = zip(ids[1:], choice["prompt_logprobs"][1:], strict=True)
            nats = -sum(row[str(token)]["logprob"] for token, row in scored)
            return float(nats) / math.log(2) / len(data)

        with ThreadPoolExecutor(len(asked)) as pool:
            return dict(zip((each[0] for each in asked), pool.map(score, asked), strict=True))

    def all_prompt_bits(self, items: Sequence[Item]) -> dict[str, dict[str, float]]:
        """Return `prompt_bits` of all items by key.

        One at a time: with LoRA, vLLM 0.32 on CPU fails for logprobs of a prompt while other
        requests are in the same step ("einsum(): subscript b has size ...").
        """
        return {item.key: self.prompt_bits(item) for item in cli.progress(items, "prompts")}

    def fusions(self) -> dict[str, Fusion]:
        """Return what the trace says by label."""
        return {
            label: Fusion(
                tokens=len(rows),
                fused=sum(row["outcome"] == "fused" for row in rows),
                late=sum(row["outcome"] == "late" for row in rows),
                expert_weight=sum(row["expert_weight"] for row in rows) / len(rows),
                reply_bytes=sum(row["received_bytes"] for row in rows),
            )
            for label, rows in lines_by_label(self.trace).items()
        }

    @cached_property
    def _vocabularies(self) -> tuple[ByteVocabulary, ByteVocabulary]:
        cloud, own = (
            ByteVocabulary.from_pretrained(folder) for folder in (self.cloud_model, self.own_model)
        )
        return cloud, own


def _at_once(
    work: Callable[[_Given], _Found], given: Iterable[_Given], description: str
) -> list[_Found]:
    items = list(given)
    pool = ThreadPoolExecutor(_CONCURRENT)
    try:
        return list(cli.progress(pool.map(work, items), description, total=len(items)))
    finally:
        # After an interruption nobody waits for what has not begun.
        pool.shutdown(cancel_futures=True)
