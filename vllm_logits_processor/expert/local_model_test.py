"""The cache against plain forward passes of tiny models with random weights."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from floe_plugins.errors import ConfigError
from vllm_logits_processor.expert.local_cache import ATTENTION
from vllm_logits_processor.expert.local_model import LocalModel
from vllm_logits_processor.expert.protocol import ExpertError

VOCABULARY = 61
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 400,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


@cache
def models(family: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return one model with Floe's attention and one with transformers' own, of equal weights."""
    torch.manual_seed(5)
    made: PreTrainedModel
    if family == "llama":
        made = LlamaForCausalLM(LlamaConfig(**SIZES, num_hidden_layers=2))
    elif family == "mistral":
        made = MistralForCausalLM(MistralConfig(**SIZES, num_hidden_layers=2, sliding_window=7))
    elif family == "qwen2":
        made = Qwen2ForCausalLM(Qwen2Config(**SIZES, num_hidden_layers=2))
    elif family == "gemma2":
        made = Gemma2ForCausalLM(
            Gemma2Config(**SIZES, num_hidden_layers=2, sliding_window=7, attn_logit_softcapping=5.0)
        )
    else:
        kinds = ["sliding_attention", "full_attention", "sliding_attention"]
        made = Gemma3ForCausalLM(
            Gemma3TextConfig(**SIZES, num_hidden_layers=3, sliding_window=7, layer_types=kinds)
        )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3.0)
    plain = type(made)(made.config).eval()
    plain.load_state_dict(made.state_dict())
    plain.set_attn_implementation("eager")
    ours = type(made)(type(made.config)(**made.config.to_dict())).eval()
    ours.load_state_dict(made.state_dict())
    ours.set_attn_implementation("eager" if family == "gemma2" else ATTENTION)
    return ours, plain


def expected(plain: PreTrainedModel, text: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.as_tensor(plain(torch.tensor([text])).logits[0])


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "gemma2", "gemma3"])
@pytest.mark.parametrize("capacity", [2000, 100])
def test_logits_equal_a_plain_forward_pass(family: str, capacity: int) -> None:
    """Texts grow, diverge, are cut short and return, alone or together."""
    random = np.random.default_rng([len(family), capacity])
    ours, plain = models(family)
    model = LocalModel(ours, capacity=capacity)
    texts = [random.integers(2, VOCABULARY, random.integers(1, 30)).tolist() for _ in range(3)]
    for _ in range(12):
        at = int(random.integers(len(texts)))
        change = random.choice(["grow", "grow", "leap", "depart", "new"])
        if change == "grow":
            texts[at] = texts[at] + random.integers(2, VOCABULARY, 1).tolist()
        elif change == "leap":
            texts[at] = texts[at][-20:] + random.integers(2, VOCABULARY, 20).tolist()
        elif change == "depart":
            cut = int(random.integers(1, len(texts[at]) + 1))
            texts[(at + 1) % 3] = texts[at][:cut] + random.integers(2, VOCABULARY, 2).tolist()
        else:
            texts[at] = random.integers(2, VOCABULARY, random.integers(1, 30)).tolist()
        asked = [texts[at][:40], *[text[:40] for text in texts if random.random() < 0.5]]
        # A prefix of another text of the same call, like a cover.
        asked.append(asked[-1][: max(1, len(asked[-1]) - 1)])
        logits = model.next_logits(model.begin_call(asked))
        for text, row in zip(asked, logits, strict=True):
            torch.testing.assert_close(row, expected(plain, text)[-1], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_long_texts_and_scores_equal_a_plain_forward_pass(family: str) -> None:
    ours, plain = models(family)
    model = LocalModel(ours, capacity=2000)
    text = np.random.default_rng(3).integers(2, VOCABULARY, 390).tolist()
    reference = expected(plain, text)
    torch.testing.assert_close(
        model.next_logits(model.begin_call([text[:350]]))[0], reference[349], atol=2e-4, rtol=1e-3
    )
    said = reference.log_softmax(-1)[torch.arange(389), torch.tensor(text[1:])]
    (row,) = model.begin_call([text])
    assert model.score(row) == pytest.approx(float(said.sum()), rel=1e-4)
    torch.testing.assert_close(
        model.next_logits(model.begin_call([text]))[0], reference[-1], atol=2e-4, rtol=1e-3
    )


def test_only_new_tokens_are_computed() -> None:
    ours, _ = models("llama")
    model = LocalModel(ours, capacity=2000)
    counted: list[int] = []
    hook = ours.model.embed_tokens.register_forward_hook(
        lambda module, args, out: counted.append(args[0].numel())
    )
    try:
        text = np.random.default_rng(3).integers(2, VOCABULARY, 300).tolist()
        for asked in ([text], [[*text, 5]], [[*text, 5, 6], [*text, 7]], [text]):
            counted.clear()
            model.next_logits(model.begin_call(asked))
            if asked == [text]:
                continue
            assert sum(counted) == len(asked)
        assert sum(counted) == 1
    finally:
        hook.remove()


def test_what_the_model_cannot_take_is_refused_and_leaves_no_trace() -> None:
    ours, plain = models("llama")
    model = LocalModel(ours, capacity=50)
    for wrong in ([], [3] * 401):
        with pytest.raises(ExpertError, match=f"A text of {len(wrong)} tokens"):
            model.begin_call([[3], wrong])
    for wrong in ([3] * 60, [3, VOCABULARY + 4]):
        with pytest.raises(ExpertError, match="failed"):
            model.next_logits(model.begin_call([wrong]))
    (logits,) = model.next_logits(model.begin_call([[3, 4]]))
    torch.testing.assert_close(logits, expected(plain, [3, 4])[-1], atol=2e-4, rtol=1e-3)


def test_other_kinds_of_layers_are_refused() -> None:
    config = LlamaConfig(**SIZES, num_hidden_layers=1)
    config.layer_types = ["linear_attention"]
    with pytest.raises(ConfigError, match="linear_attention"):
        LocalModel(LlamaForCausalLM(config), capacity=10)
