"""Answers of a host, of an expert, and of both fused, in this process and without a server.

The engine is the one that vLLM runs, with its maps, router and evidence; the host is a transformers
model. So a hundred answers take a minute or two of one core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from floe_plugins.models import resolve
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.build import build_engine
from vllm_logits_processor.config import ExpertConfig, FloeConfig
from vllm_logits_processor.engine import FusionEngine
from vllm_logits_processor.expert.local_model import LocalModel, load_model, tokens_within
from vllm_logits_processor.request_options import RequestOptions

#: Changes the logits of some running answers; see `Writer.answers`.
Change = Callable[[torch.Tensor, Sequence[int]], None]

_CACHE_BYTES = 2**30
_PATIENCE_MS = 600_000.0


@dataclass
class Answer:
    """A greedy answer.

    Attributes
    ----------
    tokens : list of int
        Without the end token.
    text : str
        Up to the stop string, if there was one.
    ended : bool
        True if the model ended it, by an end token or a stop string; False if it ran out of tokens.
    """

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    ended: bool = False


class Writer:
    """A model that answers many prompts at a time; float32.

    Parameters
    ----------
    name : str
        The model as `floe_plugins.models.resolve` takes it.
    """

    def __init__(self, name: str) -> None:
        folder = resolve(name)
        self.name, self.folder = name, folder
        self.vocabulary = ByteVocabulary.from_pretrained(folder, name=name)
        model = load_model(folder, dtype="float32")
        self._model = LocalModel(model, capacity=tokens_within(model, _CACHE_BYTES))
        #: Columns of the logits.
        self.columns = int(model.config.get_text_config().vocab_size)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Return a prompt's tokens, as a server of completions reads it."""
        return [*self.vocabulary.bos_ids, *self.vocabulary.encode(prompt.encode())]

    def answers(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int,
        stop: str,
        change: Change | None = None,
        begun: Sequence[Answer] | None = None,
    ) -> list[Answer]:
        """Return one greedy answer per prompt.

        Parameters
        ----------
        change : callable, optional
            Given the logits of a step, one row an answer that still runs, and which answers these
            are.
        begun : sequence of Answer, optional
            The answers, which are filled in while they are written.
        """
        prompt_ids = [self.prompt_ids(prompt) for prompt in prompts]
        answers = list(begun) if begun is not None else [Answer() for _ in prompts]
        running = list(range(len(prompts)))
        while running:
            texts = [prompt_ids[at] + answers[at].tokens for at in running]
            logits = self._model.next_logits(self._model.begin_call(texts))
            if change is not None:
                change(logits, running)
            for at, token in zip(running, logits.argmax(dim=1).tolist(), strict=True):
                self._take(answers[at], token, stop=stop)
            running = [
                at
                for at in running
                if not answers[at].ended and len(answers[at].tokens) < max_tokens
            ]
        return answers

    def _take(self, answer: Answer, token: int, *, stop: str) -> None:
        if token in self.vocabulary.end_ids:
            answer.ended = True
            return
        answer.tokens.append(token)
        text = self.vocabulary.decode(answer.tokens).decode(errors="replace")
        # What stands in front of an answer is no end of it.
        at = text.find(stop, len(text) - len(text.lstrip()))
        answer.ended = at >= 0
        answer.text = text[:at] if answer.ended else text


@contextmanager
def fusing(host: Writer, expert: str, **floe: Any) -> Iterator[FusionEngine]:
    """Run the engine that fuses a host with an expert in this process; `floe` is its section."""
    config = FloeConfig(
        expert=ExpertConfig(model=expert, dtype="float32"),
        deadline_ms=_PATIENCE_MS,
        first_deadline_ms=_PATIENCE_MS,
        **floe,
    )
    engine = build_engine(
        config, host_tokenizer=host.folder, host_vocabulary=host.columns, host_model=host.name
    )
    try:
        yield engine
    finally:
        engine.close()


def fused_answers(
    engine: FusionEngine, host: Writer, prompts: Sequence[str], *, max_tokens: int, stop: str
) -> list[Answer]:
    """Return one greedy answer per prompt, of both models."""
    answers = [Answer() for _ in prompts]
    streams = []
    for prompt, answer in zip(prompts, answers, strict=True):
        stream = engine.new_stream(
            host.prompt_ids(prompt), answer.tokens, RequestOptions(mode="fused"), greedy=True
        )
        assert stream is not None
        streams.append(stream)

    def fuse(logits: torch.Tensor, running: Sequence[int]) -> None:
        at = {row: streams[place] for row, place in enumerate(running)}
        engine.begin_step(list(at.values()))
        engine.decide(logits, at).write(logits)

    return host.answers(prompts, max_tokens=max_tokens, stop=stop, change=fuse, begun=answers)
