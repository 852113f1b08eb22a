"""Tiny random checkpoints of the architectures that Floe trains, over the 256 bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flower_strategy.testing.models import save_byte_tokenizer

_TOKENS = {"vocab_size": 272, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
# vLLM's attention on CPUs takes heads of 32 and more.
_HEADS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_BLOCK = {**_HEADS, "intermediate_size": 96, "max_position_embeddings": 256}
_LLAMA = {**_TOKENS, **_BLOCK, "num_key_value_heads": 1}
_GPT = {**_TOKENS, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256}
_MIXTURE = {"num_experts_per_tok": 2}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@dataclass(frozen=True)
class Architecture:
    """An architecture and how to make it tiny.

    Attributes
    ----------
    title : str
        Its name in tables.
    kind : str
        Its ``model_type`` in transformers.
    names : str
        Last parts of the names of its modules that carry factors.
    tiny : Mapping[str, Any]
        The configuration of a tiny model.
    size : Mapping[str, Any]
        That of a usual one, where transformers' defaults are tiny.
    """

    title: str
    kind: str
    names: str
    tiny: Mapping[str, Any]
    size: Mapping[str, Any] = field(default_factory=dict)


_SEVEN = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
_FOUR = "q_proj k_proj v_proj o_proj"
_FUSED = "query_key_value dense dense_h_to_4h dense_4h_to_h"

ARCHITECTURES = (
    Architecture("Llama", "llama", _SEVEN, _LLAMA),
    Architecture("Mistral", "mistral", _SEVEN, _LLAMA),
    Architecture("Qwen2", "qwen2", _SEVEN, _LLAMA),
    Architecture("Qwen3", "qwen3", _SEVEN, {**_LLAMA, "head_dim": 32}),
    Architecture("Gemma 2", "gemma2", _SEVEN, {**_LLAMA, "head_dim": 32}),
    Architecture("Gemma 3 (text)", "gemma3_text", _SEVEN, {**_LLAMA, "head_dim": 32}),
    Architecture(
        "Gemma 3 (with a vision tower)",
        "gemma3",
        _SEVEN,
        {
            "text_config": {**_LLAMA, "head_dim": 32},
            "vision_config": _VISION,
            "mm_tokens_per_image": 4,
            "image_token_index": 260,
            "boi_token_index": 261,
            "eoi_token_index": 262,
        },
    ),
    Architecture("Cohere", "cohere", _SEVEN, _LLAMA),
    Architecture("Granite", "granite", _SEVEN, _LLAMA),
    Architecture("OLMo 2", "olmo2", _SEVEN, _LLAMA),
    Architecture("StableLM", "stablelm", _SEVEN, _LLAMA),
    Architecture("StarCoder2", "starcoder2", f"{_FOUR} c_fc c_proj", _LLAMA),
    Architecture("Phi-3", "phi3", "o_proj qkv_proj gate_up_proj down_proj", _LLAMA),
    Architecture("Phi", "phi", "q_proj k_proj v_proj dense fc1 fc2", _LLAMA),
    Architecture("GPT-2", "gpt2", "c_attn c_proj c_fc", _GPT),
    Architecture("GPT-NeoX", "gpt_neox", _FUSED, {**_TOKENS, **_BLOCK}),
    Architecture(
        "GPT-J",
        "gptj",
        "k_proj v_proj q_proj out_proj fc_in fc_out",
        {**_GPT, "rotary_dim": 16},
    ),
    Architecture("Falcon", "falcon", _FUSED, {**_TOKENS, **_HEADS}),
    Architecture(
        "BLOOM",
        "bloom",
        _FUSED,
        {**_TOKENS, "hidden_size": 64, "n_layer": 2, "n_head": 2},
        size={"hidden_size": 1024, "n_layer": 24, "n_head": 16},
    ),
    Architecture(
        "OPT",
        "opt",
        "k_proj v_proj q_proj out_proj fc1 fc2",
        {
            **_TOKENS,
            **_HEADS,
            "ffn_dim": 96,
            "word_embed_proj_dim": 64,
            "max_position_embeddings": 256,
        },
    ),
    Architecture(
        "MPT",
        "mpt",
        "Wqkv out_proj up_proj down_proj",
        {**_TOKENS, "d_model": 64, "n_heads": 2, "n_layers": 2, "max_seq_len": 256},
    ),
    Architecture("Mixtral", "mixtral", _FOUR, {**_LLAMA, **_MIXTURE, "num_local_experts": 4}),
    Architecture(
        "Qwen2-MoE",
        "qwen2_moe",
        f"{_SEVEN} shared_expert_gate",
        {
            **_LLAMA,
            **_MIXTURE,
            "num_experts": 4,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        },
    ),
    Architecture(
        "Qwen3-MoE",
        "qwen3_moe",
        _FOUR,
        {
            **_LLAMA,
            **_MIXTURE,
            "head_dim": 32,
            "num_experts": 4,
            "moe_intermediate_size": 32,
        },
    ),
    Architecture("OLMoE", "olmoe", _FOUR, {**_LLAMA, **_MIXTURE, "num_experts": 4}),
    Architecture(
        "gpt-oss",
        "gpt_oss",
        _FOUR,
        {
            **_LLAMA,
            **_MIXTURE,
            "head_dim": 32,
            "num_local_experts": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
)
"""The architectures of the page on models, and of its tests."""

BY_KIND = {each.kind: each for each in ARCHITECTURES}


def write_checkpoint(kind: str, folder: Path, **changes: Any) -> str:
    """Write a tiny model with its tokenizer; return the folder.

    Parameters
    ----------
    kind : str
        Its ``model_type``, one of `BY_KIND`.
    folder : Path
        Made when absent.
    **changes : Any
        Values of its configuration that differ from `Architecture.tiny`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    save_byte_tokenizer(folder)
    config = AutoConfig.for_model(kind, **{**BY_KIND[kind].tiny, **changes})
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                # Larger than usual: tokens' probabilities are to differ.
                torch.nn.init.normal_(weight, std=0.15)
    model.save_pretrained(str(folder))
    return str(folder)
