"""Engines on small trained tokenizers, with an expert whose replies the test sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import torch

from floe_plugins.gate import Gate
from floe_plugins.routers import BUILT_IN_ROUTERS
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import build_maps
from vllm_logits_processor.alignment.prompt import Conversation
from vllm_logits_processor.config import ExpertConfig, FloeConfig
from vllm_logits_processor.engine import FusionEngine, Pair
from vllm_logits_processor.evidence import PromptScorer
from vllm_logits_processor.expert.call_times import CallTimes
from vllm_logits_processor.expert.pool import ExpertPool
from vllm_logits_processor.expert.protocol import Continuation, ExpertError, ExpertReply
from vllm_logits_processor.observe import FusionMetrics
from vllm_logits_processor.request_options import RequestOptions
from vllm_logits_processor.stream import Stream
from vllm_logits_processor.testing.tokenizers import trained_vocabulary

HOST, EXPERT = trained_vocabulary("byte-level"), trained_vocabulary("sentencepiece")
PAIR = Pair(
    host=HOST,
    expert=EXPERT,
    maps=build_maps(HOST, EXPERT),
    conversation=Conversation(HOST, EXPERT),
)
FUSED = RequestOptions(mode="fused")


class FarAway(CallTimes):
    """Times of an expert that is a second away, however many tokens a call asks for."""

    def __init__(self) -> None:
        super().__init__()
        super().observe_call(steps=64, seconds=1.0)

    def observe_call(self, *, steps: int, seconds: float) -> None:
        """Leave it there."""


class Scripted:
    """Answers at once with a favourite token or as a toy model, fails, or stays silent."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[list[int]], str]] = []
        self.steps: list[int] = []
        self.scored: list[tuple[list[int], str]] = []
        self.mode = "answer"
        self.nats_per_token = -3.0
        self.silent: list[Future[ExpertReply]] = []

    def start(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int = 1
    ) -> Future[ExpertReply]:
        self.calls.append(([list(prompt) for prompt in prompts], model))
        self.steps.append(steps)
        future: Future[ExpertReply] = Future()
        if self.mode == "fail":
            future.set_exception(ExpertError("The expert is down."))
        elif self.mode == "silent":
            self.silent.append(future)
        else:
            say = toy_continuation if self.mode == "toy" else favourite_continuation
            future.set_result(
                ExpertReply(
                    continuations=tuple(say(prompt, steps) for prompt in prompts),
                    sent_bytes=100,
                    received_bytes=60,
                )
            )
        return future

    def score(self, prompt: Sequence[int], *, model: str) -> Future[float]:
        self.scored.append((list(prompt), model))
        future: Future[float] = Future()
        future.set_result(self.nats_per_token * (len(prompt) - 1))
        return future

    def close(self) -> None:
        self.calls.clear()


def favourite_continuation(prompt: Sequence[int], steps: int) -> Continuation:
    """Predict " cat" with probability 0.9, whatever the prompt."""
    del prompt
    favourite = EXPERT.encode(b" cat")[0]
    return Continuation(
        tokens=np.full(steps, favourite),
        top=ExpertTopK(
            token_ids=np.full((steps, 1), favourite), logprobs=np.full((steps, 1), np.log(0.9))
        ),
    )


def toy_continuation(prompt: Sequence[int], steps: int, k: int = 12) -> Continuation:
    """Continue like a toy language model whose distribution depends on the last two tokens."""
    text, tokens, ids, logprobs = list(prompt), [], [], []
    spelled = np.array([bool(data) for data in EXPERT.token_bytes])
    for _ in range(steps):
        random = np.random.default_rng(text[-2:])
        masses = random.dirichlet(np.full(len(EXPERT), 0.02)) * spelled
        order = np.argsort(-masses)[:k]
        ids.append(order)
        logprobs.append(np.log(np.maximum(masses[order] / masses.sum(), 1e-12)))
        tokens.append(int(order[0]))
        text.append(tokens[-1])
    return Continuation(
        tokens=np.array(tokens),
        top=ExpertTopK(token_ids=np.array(ids), logprobs=np.array(logprobs)),
    )


def engine(
    expert: Scripted,
    *,
    gate: Gate | None = None,
    router: str = "evidence",
    lookahead: int = 1,
    context: int | None = None,
    scorer: PromptScorer | None = None,
    **values: Any,
) -> FusionEngine:
    """Return an engine on :data:`PAIR`; ``values`` go into its configuration.

    With look-ahead the expert counts as far away, though a scripted one answers at once.
    """
    section = ExpertConfig(
        url="http://x",
        model="slm",
        tokenizer="t",
        trusted=gate is None,
        lookahead=lookahead,
        context=context,
    )
    values = {"deadline_ms": 50, "first_deadline_ms": 50, "covers": 0, **values}
    config = FloeConfig(expert=section, **values)
    return FusionEngine(
        config=config,
        pair=PAIR,
        expert=ExpertPool(
            {"http://x": expert},
            failures=config.breaker_failures,
            cooldown_s=config.breaker_cooldown_s,
        ),
        router=next(each for each in BUILT_IN_ROUTERS if each.name == router),
        gate=gate,
        metrics=FusionMetrics(port=None),
        scorer=scorer,
        times=FarAway() if lookahead > 1 else None,
    )


def stream_of(parts: FusionEngine, text: bytes, options: RequestOptions = FUSED) -> Stream:
    """Return a new stream whose prompt is a text."""
    stream = parts.new_stream(HOST.encode(text), [], options)
    assert stream is not None
    return stream


def some_logits(rows: int = 1) -> torch.Tensor:
    """Return the host's logits of each step, shape (rows, host vocabulary)."""
    return torch.randn(rows, len(HOST), generator=torch.Generator().manual_seed(0))


def step(parts: FusionEngine, streams: dict[int, Stream], rows: int = 1) -> torch.Tensor:
    """Run a step of the streams, by row; return the fused logits."""
    logits = some_logits(rows)
    parts.begin_step(list(streams.values()))
    parts.decide(logits, streams).write(logits)
    return logits


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]
