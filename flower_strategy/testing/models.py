"""A tiny random Llama with a byte tokenizer, for tests that need no real language."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flower_strategy.profile import DeviceProfile


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a two-layer Llama of 32 dimensions over the 256 bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-llama")
    tokens = save_byte_tokenizer(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokens,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            eos_token_id=0,
            bos_token_id=0,
            pad_token_id=0,
        )
    ).save_pretrained(str(folder))
    return str(Path(folder))


CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}[end]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_chat_model(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of the tiny Llama with a chat template."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tiny-chat") / "model"
    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(str(folder))
    return str(folder)


def save_byte_tokenizer(folder: Path) -> int:
    """Write a tokenizer of the 256 bytes and an end, token 0; return how many tokens it has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<end>": 0, **{symbol: index for index, symbol in enumerate(alphabet, 1)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>"
    ).save_pretrained(str(folder))
    return len(vocabulary)


def make_profile(**changes: Any) -> DeviceProfile:
    """Return the profile of a phone, with some of its values changed."""
    values: dict[str, Any] = {
        "device": "phone",
        "label": "code",
        "memory_bytes": 3 * 1024**3,
        "fixed_bytes": 900_000_000,
        "bytes_per_rank": 4_884_480,
        "upload_per_rank": 1_221_120,
        "step_ranks": (4, 32),
        "step_seconds": (3.0, 3.5),
        "bandwidth": 250_000.0,
        "num_examples": 100,
        "embedding": np.array([0.6, 0.8], np.float32),
    }
    return DeviceProfile(**{**values, **changes})
