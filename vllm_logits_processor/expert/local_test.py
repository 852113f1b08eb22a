"""An expert in this process: a tiny model with random weights, called as the engine calls it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from floe_plugins.errors import ConfigError
from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.config import ExpertConfig
from vllm_logits_processor.expert import local_model
from vllm_logits_processor.expert.build import IN_PROCESS, build_expert
from vllm_logits_processor.expert.local import InProcessExpert
from vllm_logits_processor.expert.local_model import load_model
from vllm_logits_processor.expert.protocol import ExpertError

VOCABULARY = 60
PROMPTS = [[3, 4, 5], [3, 4, 5, 6, 7], [9]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("model")
    model = LlamaForCausalLM(
        LlamaConfig(
            # Four more columns than the tokenizer has tokens.
            vocab_size=VOCABULARY + 4,
            hidden_size=16,
            intermediate_size=16,
            num_attention_heads=2,
            num_hidden_layers=2,
            max_position_embeddings=64,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0)
    model.save_pretrained(folder)
    return folder


def expert_of(checkpoint: Path, *, ends: list[int], top_k: int = 5) -> InProcessExpert:
    return InProcessExpert(
        load_model(str(checkpoint), dtype="float32"),
        name="slm",
        top_k=top_k,
        vocabulary=VOCABULARY,
        end_ids=np.array(ends, dtype=np.int32),
    )


@pytest.fixture
def expert(checkpoint: Path) -> Iterator[InProcessExpert]:
    made = expert_of(checkpoint, ends=[])
    yield made
    made.close()


def plain(checkpoint: Path, text: list[int]) -> torch.Tensor:
    """Return ln p of each next token after `text`, by a forward pass without a cache."""
    model = LlamaForCausalLM.from_pretrained(checkpoint, attn_implementation="eager").eval()
    with torch.inference_mode():
        return torch.as_tensor(model(torch.tensor([text])).logits[0].log_softmax(-1))


@pytest.mark.parametrize("steps", [1, 4])
def test_top_k_and_own_tokens_are_those_of_a_plain_forward_pass(
    expert: InProcessExpert, checkpoint: Path, steps: int
) -> None:
    reply = expert.start(PROMPTS, model="slm", steps=steps).result(timeout=60)
    assert (reply.sent_bytes, reply.received_bytes) == (0, 0)
    for prompt, said in zip(PROMPTS, reply.continuations, strict=True):
        assert said.tokens.shape == (steps,)
        logprobs = plain(checkpoint, prompt + said.tokens.tolist())[len(prompt) - 1 :]
        for step in range(steps):
            best = logprobs[step, :VOCABULARY].topk(5)
            assert said.top.token_ids[step].tolist() == best.indices.tolist()
            assert said.top.logprobs[step] == pytest.approx(best.values.numpy(), abs=1e-4)
            assert said.tokens[step] == best.indices[0]


def test_a_continuation_ends_with_the_expert(expert: InProcessExpert, checkpoint: Path) -> None:
    free = expert.start(PROMPTS, model="slm", steps=4).result(timeout=60)
    end = int(free.continuations[0].tokens[1])
    ending = expert_of(checkpoint, ends=[end, VOCABULARY - 1], top_k=VOCABULARY)
    said = ending.start(PROMPTS, model="slm", steps=4).result(timeout=60).continuations
    ending.close()
    for long, short in zip(free.continuations, said, strict=True):
        own = long.tokens.tolist()
        expected = own[: own.index(end) + 1] if end in own else own
        if VOCABULARY - 1 not in own:
            assert short.tokens.tolist() == expected
            assert len(short.top.token_ids) == len(expected)
    # Both ends are one event.
    ids, logprobs = said[0].top.token_ids[0], said[0].top.logprobs[0]
    both = plain(checkpoint, PROMPTS[0])[-1][[end, VOCABULARY - 1]].exp().sum()
    assert np.exp(logprobs[ids == end]) == pytest.approx([float(both)], abs=1e-5)
    assert VOCABULARY - 1 not in ids
    assert NOTHING in ids


def test_scores_are_those_of_a_plain_forward_pass(
    expert: InProcessExpert, checkpoint: Path
) -> None:
    text = list(range(3, 43))
    said = plain(checkpoint, text)[torch.arange(39), torch.tensor(text[1:])]
    future = expert.score(text, model="slm")
    assert future.result(timeout=60) == pytest.approx(float(said.sum()), rel=1e-4)


def test_starting_does_not_wait_and_leaves_the_threads_alone(expert: InProcessExpert) -> None:
    threads = torch.get_num_threads()
    begun = time.monotonic()
    futures = [expert.start(PROMPTS, model="slm", steps=20) for _ in range(5)]
    assert time.monotonic() - begun < 0.5
    replies = [future.result(timeout=60).continuations for future in futures]
    assert len({str([each.tokens.tolist() for each in reply]) for reply in replies}) == 1
    assert torch.get_num_threads() == threads


def test_a_text_that_was_read_goes_on_while_another_one_is_read(
    expert: InProcessExpert, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_model, "_READ_CHUNK", 4)
    ended: list[str] = []
    text = [3 + place % 50 for place in range(60)]
    long = expert.start([text], model="slm")
    long.add_done_callback(lambda _: ended.append("long"))
    short = expert.start([[3, 4]], model="slm")
    short.add_done_callback(lambda _: ended.append("short"))
    (said,) = long.result(timeout=60).continuations
    short.result(timeout=60)
    assert ended == ["short", "long"]
    best = plain(checkpoint, text)[-1, :VOCABULARY].topk(5)
    assert said.top.token_ids[0].tolist() == best.indices.tolist()


def test_what_it_cannot_do_is_an_error_and_the_next_call_is_answered(
    expert: InProcessExpert,
) -> None:
    with pytest.raises(ExpertError, match="is 'slm' and has no model 'other'"):
        expert.start(PROMPTS, model="other").result(timeout=60)
    with pytest.raises(ExpertError, match="accepted are 1 to 64"):
        expert.start([[3] * 65], model="slm").result(timeout=60)
    assert len(expert.start(PROMPTS, model="slm").result(timeout=60).continuations) == 3


def test_a_configuration_without_a_url_loads_the_model(checkpoint: Path) -> None:
    states: list[tuple[str, str]] = []
    pool = build_expert(
        ExpertConfig(model=str(checkpoint), dtype="bfloat16", top_k=3),
        vocabulary=VOCABULARY,
        end_ids=np.empty(0, dtype=np.int32),
        breaker_failures=2,
        breaker_cooldown_s=5.0,
        on_breaker=lambda *, url, state: states.append((url, state)),
    )
    (said,) = pool.start([[3, 4]], model=str(checkpoint)).result(timeout=60).continuations
    pool.close()
    assert said.top.token_ids.shape == (1, 3)
    assert states == [(IN_PROCESS, "closed")]


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_model(str(tmp_path), dtype="auto")


@pytest.mark.parametrize("device", ["cuda:99", "meta", "nonsense"])
def test_a_device_that_is_not_there_is_named(checkpoint: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"expert.device is '{device}', which torch does not"):
        load_model(str(checkpoint), dtype="float32", device=device)
    assert load_model(str(checkpoint), dtype="float32", device="cpu").device.type == "cpu"
