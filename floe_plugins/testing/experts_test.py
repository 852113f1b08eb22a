"""The suite on an expert of Floe's own, as if of a plugin, and on some that must fail."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from floe_plugins.testing.experts import ExpertConformance
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.config import ExpertConfig
from vllm_logits_processor.expert.local import InProcessExpert
from vllm_logits_processor.expert.local_model import load_model
from vllm_logits_processor.expert.protocol import Continuation, ExpertError, ExpertReply

VOCABULARY = 60


class TinyKind:
    """A tiny random model in this process, under a plugin's name."""

    name = "tiny"

    def __init__(self) -> None:
        self.folder = Path()

    def build(self, config: ExpertConfig, *, vocabulary: int, end_ids: Any) -> InProcessExpert:
        return InProcessExpert(
            load_model(str(self.folder), dtype="float32"),
            name=config.model,
            top_k=5,
            vocabulary=vocabulary,
            end_ids=end_ids,
        )


class TestInProcess(ExpertConformance):
    """Floe's own expert holds what it asks of plugins."""

    kind = TinyKind()
    vocabulary = VOCABULARY
    end_ids = (2, 7)

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def weights(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        torch.manual_seed(2)
        folder = tmp_path_factory.mktemp("tiny")
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=16,
            num_attention_heads=2,
            num_hidden_layers=2,
            max_position_embeddings=64,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        cls.kind.folder = folder


def top(*tokens: int) -> ExpertTopK:
    return ExpertTopK(
        token_ids=np.array([tokens]), logprobs=np.log(0.9) - np.arange(1.0, len(tokens) + 1)[None]
    )


class Counting:
    """An expert whose next token is the number of tokens so far, with one flaw."""

    def __init__(self, flaw: str) -> None:
        self.flaw, self.calls, self.closed = flaw, 0, False

    def start(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int = 1
    ) -> Future[ExpertReply]:
        self.calls += 1
        future: Future[ExpertReply] = Future()
        given = list(reversed(prompts)) if self.flaw == "order" else list(prompts)
        if self.flaw == "one short":
            given = given[:-1]
        if self.flaw == "hangs" and len(prompts) > 1:
            return future
        future.set_result(
            ExpertReply(
                continuations=tuple(self._after(prompt, steps) for prompt in given),
                sent_bytes=0,
                received_bytes=0,
            )
        )
        return future

    def score(self, prompt: Sequence[int], *, model: str) -> Future[float]:
        if self.flaw == "raises at scores":
            raise KeyError
        future: Future[float] = Future()
        if self.flaw == "says that it has no scores":
            future.set_exception(ExpertError("This expert gives no scores."))
        else:
            self.calls += self.flaw == "drifts"
            future.set_result(-float(len(prompt) + self.calls * (self.flaw == "drifts")))
        return future

    def close(self) -> None:
        self.closed = True

    def _after(self, prompt: Sequence[int], steps: int) -> Continuation:
        steps += self.flaw == "a step more"
        first = len(prompt) + (self.calls if self.flaw == "drifts" else 0)
        tokens = [first + (1 if self.flaw == "not ahead" else step) for step in range(steps)]
        rows = [top(token, token + 1) for token in tokens]
        if self.flaw == "not greedy":
            tokens = [token + 1 for token in tokens]
        return Continuation(
            tokens=np.array(tokens),
            top=ExpertTopK(
                token_ids=np.concatenate([row.token_ids for row in rows]),
                logprobs=np.concatenate([row.logprobs for row in rows]),
            ),
        )


class CountingKind:
    """Builds it."""

    name = "counting"

    def __init__(self, flaw: str) -> None:
        self.flaw = flaw

    def build(self, config: ExpertConfig, *, vocabulary: int, end_ids: Any) -> Counting:
        return Counting(self.flaw)


def failures(flaw: str) -> set[str]:
    """Return which tests of the suite an expert with a flaw fails."""
    suite = type("Suite", (ExpertConformance,), {"kind": CountingKind(flaw), "within_s": 1.0})()
    failed = set()
    for name in (name for name in dir(suite) if name.startswith("test_")):
        built = suite.build()
        arguments = () if name == "test_it_says_what_it_is" else (built,)
        try:
            getattr(suite, name)(*arguments)
        except (AssertionError, ExpertError, TimeoutError):
            failed.add(name)
        built.close()
    return failed


@pytest.mark.parametrize("flaw", ["", "says that it has no scores"])
def test_a_good_expert_passes(flaw: str) -> None:
    assert failures(flaw) == set()


@pytest.mark.parametrize(
    ("flaw", "test"),
    [
        ("order", "test_every_prompt_has_its_answer"),
        ("one short", "test_every_prompt_has_its_answer"),
        ("not greedy", "test_its_own_tokens_are_the_likeliest"),
        ("not ahead", "test_several_steps_are_those_of_several_calls"),
        ("a step more", "test_several_steps_are_those_of_several_calls"),
        ("drifts", "test_calls_that_overlap_are_all_answered"),
        ("drifts", "test_a_call_that_is_dropped_harms_no_other"),
        ("drifts", "test_a_text_has_a_score_or_the_expert_says_that_it_has_none"),
        (
            "raises at scores",
            "test_a_text_has_a_score_or_the_expert_says_that_it_has_none",
        ),
        ("hangs", "test_it_can_be_closed_with_a_call_under_way"),
    ],
)
def test_a_flaw_is_found(flaw: str, test: str) -> None:
    assert test in failures(flaw)
