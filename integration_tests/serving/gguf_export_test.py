"""GGUF files of many architectures, exported as folders: the logits are the original model's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM

from floe_plugins.models import export
from flower_strategy.testing.architectures import BY_KIND, write_checkpoint
from integration_tests.harness.gguf_base import ARCHITECTURES, write_base


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a vocabulary as large as the tiny models'."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.gguf"
    count = BY_KIND["llama"].tiny["vocab_size"]
    tokens = ["<", ">", "<>", *(f"<{number}>" for number in range(3, count))]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (count - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["< >"])
    writer.add_eos_token_id(count - 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


#: Where a tiny model is to have what the reader does not take from a header.
CHANGES: Mapping[str, dict[str, Any]] = {
    "gemma3_text": {"query_pre_attn_scalar": 32},
    "qwen3": {"head_dim": 128},
}


# transformers, which converts those that Floe does not, reads no OLMo 2.
@pytest.mark.parametrize("kind", sorted({*ARCHITECTURES} - {"olmo2"}))
def test_the_folder_answers_as_the_model_did(kind: str, tokenizer: Path, tmp_path: Path) -> None:
    source = write_checkpoint(kind, tmp_path / "source", **CHANGES.get(kind, {}))
    original: Any = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        for weight in original.parameters():
            if weight.ndim == 1:
                # Biases and norms are to count.
                weight.add_(torch.randn(weight.shape) / 4)
        original.half().save_pretrained(source)
    path = write_base(source, tmp_path / "model.gguf", tokenizer=tokenizer)
    folder = export(str(path), tmp_path / "folder", progress=False)
    ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        own, expected = (
            AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32)(ids).logits
            for each in (folder, source)
        )
    assert expected.std() > 0.1
    torch.testing.assert_close(own, expected, atol=5e-3, rtol=1e-3)
