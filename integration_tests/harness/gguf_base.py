"""Base models as GGUF files in float16, written from folders in transformers' format.

With weights that are hardly rounded, what llama.cpp answers can be compared with transformers. What
llama.cpp's own converter changes in a weight is done here from its description, not by the code
that is tested: a wrong order of rows shows as other answers of the base model.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

Weights = NDArray[np.float32]

#: Model types of transformers -> llama.cpp's name.
ARCHITECTURES = {
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "llama": "llama",
    "mistral": "llama",
    "olmo2": "olmo2",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}

#: Norms of Gemma multiply by ``1 + w`` in transformers and by the stored number in llama.cpp.
_ONE_MORE = ("gemma2", "gemma3_text")

#: Of each head, row ``i`` of the first half and row ``i`` of the second follow each other.
_PAIRED = {"llama": ("attn_q", "attn_k"), "mistral": ("attn_q", "attn_k")}


def write_base(folder: str, path: Path, *, tokenizer: Path | None = None) -> Path:
    """Write the model of a folder as GGUF; matrices are in float16, the rest in float32.

    Parameters
    ----------
    folder : str
        A checkpoint of one of `ARCHITECTURES`.
    path : Path
        The file.
    tokenizer : Path, optional
        A GGUF file to copy the tokenizer of. By default tokens are named by their numbers, in ASCII
        so that each is a text by itself: llama.cpp says no log probabilities of a broken character.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    config, kind = model.config, model.config.model_type
    name = ARCHITECTURES[kind]
    writer = gguf.GGUFWriter(path, name)
    heads = _add_header(writer, config)
    if tokenizer is None:
        _add_tokens(writer, config.vocab_size)
    else:
        _copy_tokenizer(writer, tokenizer)
    (architecture,) = (each for each, of in gguf.MODEL_ARCH_NAMES.items() if of == name)
    table = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        found = table.get_name(key, try_suffixes=(".weight", ".bias"))
        assert found is not None, key
        values = tensor.float().numpy()
        if kind in _ONE_MORE and found.endswith("norm.weight"):
            values = values + 1
        part = found.split(".")[-2]
        if part in _PAIRED.get(kind, ()):
            values = _paired(values, heads[part == "attn_k"])
        writer.add_tensor(found, values.astype(np.float16 if values.ndim > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_header(writer: gguf.GGUFWriter, config: Any) -> tuple[int, int]:
    """Write what describes the model; return its query and key heads."""
    heads = config.num_attention_heads, config.num_key_value_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads[0]
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads[0])
    writer.add_head_count_kv(heads[1])
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    return heads


def _paired(values: Weights, heads: int) -> Weights:
    """Return rows in the order ``0, d/2, 1, d/2 + 1, ...`` within each head of ``d`` rows."""
    size = len(values) // heads
    within = np.arange(size).reshape(2, size // 2).T.ravel()
    order = np.concatenate([head * size + within for head in range(heads)])
    reordered: Weights = values[order]
    return reordered


def _add_tokens(writer: gguf.GGUFWriter, count: int) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"<{token}>" for token in range(count)])
    writer.add_token_types([gguf.TokenType.NORMAL] * count)
    writer.add_token_merges(["< >"])
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


def _copy_tokenizer(writer: gguf.GGUFWriter, source: Path) -> None:
    for key, field in gguf.GGUFReader(source).fields.items():
        if key.startswith("tokenizer."):
            kind, *inner = field.types
            writer.add_key_value(key, field.contents(), kind, inner[0] if inner else None)


def next_logprobs(
    url: str, tokens: Sequence[int], *, count: int, lora: Mapping[int, float]
) -> dict[int, float]:
    """Ask llama.cpp's server for the log probabilities of the tokens that may come next.

    Parameters
    ----------
    url : str
        Of the server.
    tokens : Sequence[int]
        The text.
    count : int
        How many of the likeliest to ask for.
    lora : Mapping[int, float]
        Id of an adapter -> its scale, 0 to leave it out; at least one where any is loaded. Without
        one llama.cpp applies none, but goes on from what the slot has read with the last one.
    """
    body = {
        "prompt": list(tokens),
        "n_predict": 1,
        "n_probs": count,
        "temperature": 0,
        "cache_prompt": True,
        "lora": [{"id": adapter, "scale": scale} for adapter, scale in lora.items()],
    }
    (entry,) = post(f"{url}/completion", body)["completion_probabilities"]
    return {each["id"]: each["logprob"] for each in entry["top_logprobs"]}


def post(url: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Send JSON and return the JSON of the reply."""
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        found: dict[str, Any] = json.loads(reply.read())
    return found
