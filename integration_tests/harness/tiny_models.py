"""Models of a few hundred kilobytes, for tests of a server's behaviour, not of its texts.

The host is a Llama with random weights and a byte-level vocabulary. Its expert is a server whose
answers are a fixed function of the prompt, over a sentencepiece vocabulary: any two engines that
send it the same requests, in any order or batch, get the same answers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vllm_logits_processor.testing.fake_expert import FakeExpert, completion, fake_expert
from vllm_logits_processor.testing.tokenizers import byte_level_bpe, sentencepiece_bpe

#: Long enough for a busy machine: these tests check answers, not their speed.
PATIENT = {"deadline_ms": 20_000, "first_deadline_ms": 60_000}

PROMPTS = [
    "The cat sat on the mat; the mat was flat",
    "def add(first, second):",
    "One hundred and twenty-one thousand people",
    "Naïve café owners paid 12,50 € for",
]

#: About 107 tokens: more than the servers of `conftest` take in one step.
LONG_PROMPT = " ".join(PROMPTS * 3)

#: Probabilities that the expert gives to its favourites.
_SHARES = (0.55, 0.2, 0.1, 0.05)


@dataclass(frozen=True)
class TinyModels:
    """Folders of a host, of an adapter for it, and of the expert's tokenizer."""

    host: str
    adapter: str
    expert_tokenizer: str
    expert_tokens: int

    def embeddings(self, text: str) -> torch.Tensor:
        """Return the host's input embeddings of a text; shape (tokens, hidden), float32."""
        tokens = PreTrainedTokenizerFast.from_pretrained(self.host)(text).input_ids
        model = LlamaForCausalLM.from_pretrained(self.host)
        found: torch.Tensor = model.get_input_embeddings()(torch.tensor(tokens)).detach()
        return found

    def floe(self, expert: FakeExpert, **values: Any) -> dict[str, Any]:
        """Return a ``floe`` section with `expert` as its expert."""
        section = {
            "url": expert.url,
            "model": "slm",
            "tokenizer": self.expert_tokenizer,
            "trusted": True,
        }
        return {"expert": section, **PATIENT, **values}


def make_models(folder: Path) -> TinyModels:
    """Write them."""
    host, adapter, expert = (str(folder / name) for name in ("host", "adapter", "expert"))
    backend = byte_level_bpe(420)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    tokenizer.save_pretrained(host)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=backend.get_vocab_size(),
            hidden_size=128,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,  # vLLM's CPU attention takes heads of 32 and more
            num_key_value_heads=2,
            max_position_embeddings=1024,
            initializer_range=0.3,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    model.save_pretrained(host)
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    for name, weights in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.3)
    adapted.save_pretrained(adapter)
    theirs = sentencepiece_bpe(420)
    PreTrainedTokenizerFast(tokenizer_object=theirs, eos_token="</s>").save_pretrained(expert)
    # What tells Floe that the folder is a checkpoint's; there are no weights.
    LlamaConfig(vocab_size=theirs.get_vocab_size()).save_pretrained(expert)
    return TinyModels(host, adapter, expert, theirs.get_vocab_size())


@contextmanager
def canned_expert(models: TinyModels) -> Iterator[FakeExpert]:
    """Run the expert; it favours some tokens by the prompt alone."""

    def favourites(text: list[int]) -> dict[int, float]:
        digest = hashlib.sha256(repr(text).encode()).digest()
        ordinary = models.expert_tokens - 3
        tokens = [3 + int.from_bytes(digest[at : at + 4], "big") % ordinary for at in (0, 4, 8, 12)]
        return {token: math.log(share) for token, share in zip(tokens, _SHARES, strict=True)}

    def continued(prompt: list[int], steps: int) -> list[dict[int, float]]:
        text, rows = list(prompt), []
        for _ in range(steps):
            rows.append(favourites(text))
            text.append(next(iter(rows[-1])))
        return rows

    def answer(body: dict[str, Any]) -> bytes:
        return completion(*(continued(each, int(body["max_tokens"])) for each in body["prompt"]))

    with fake_expert(answer) as expert:
        yield expert
