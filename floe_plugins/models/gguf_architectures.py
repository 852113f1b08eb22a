"""How llama.cpp's architectures map onto those of transformers, and how its converter is undone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from floe_plugins.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Of Llama 3.1 and later (`rope_scaling` of their config.json); the factor differs by model.
_LLAMA3_ROPE = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


class Header(Protocol):
    """The fields of a GGUF file's header."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return a field's content, or the default where there is none."""
        ...

    def require(self, key: str) -> Any:
        """Return a field's content; where there is none, raise a `ModelError`."""
        ...


@dataclass(frozen=True)
class Architecture:
    """How one llama.cpp architecture maps onto transformers.

    Attributes
    ----------
    config : callable
        Header, frequency factors of the rotary embedding (None if the file has none) ->
        transformers configuration.
    block_names : dict
        Tensor names inside a block, on top of those that all architectures share.
    undo : callable
        Called with a tensor's llama.cpp name, its values and the configuration; undoes the changes
        of llama.cpp's converter.
    """

    config: "Callable[[Header, np.ndarray | None], PreTrainedConfig]"
    block_names: dict[str, str]
    undo: "Callable[[str, np.ndarray, PreTrainedConfig], np.ndarray]"


def _sizes(header: Header, name: str) -> dict[str, Any]:
    """Return what the configurations of all architectures call alike."""
    heads = header.require(f"{name}.attention.head_count")
    return {
        "hidden_size": header.require(f"{name}.embedding_length"),
        "intermediate_size": header.require(f"{name}.feed_forward_length"),
        "num_hidden_layers": header.require(f"{name}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.get(f"{name}.attention.head_count_kv", heads),
        "max_position_embeddings": header.require(f"{name}.context_length"),
        "rms_norm_eps": round(header.require(f"{name}.attention.layer_norm_rms_epsilon"), 12),
    }


def _rope(header: Header, name: str, factors: np.ndarray | None, *, size: int) -> dict[str, Any]:
    """Return the rotary embedding of heads of `size` dimensions."""
    base = header.get(f"{name}.rope.freq_base", 10_000.0)
    scaling = header.get(f"{name}.rope.scaling.type", "none")
    if factors is not None:
        return _llama3_rope(base, factors, size=size)
    if scaling == "none":
        return {"rope_type": "default", "rope_theta": base}
    if scaling not in ("linear", "yarn"):
        raise ModelError(
            f"The header's {name}.rope.scaling.type is {scaling!r}; accepted are none, linear "
            "and yarn."
        )
    found = {
        "rope_type": scaling,
        "rope_theta": base,
        "factor": header.require(f"{name}.rope.scaling.factor"),
    }
    if scaling == "yarn":
        key = f"{name}.rope.scaling.original_context_length"
        found["original_max_position_embeddings"] = header.require(key)
    return found


def _llama3_rope(base: float, factors: np.ndarray, *, size: int) -> dict[str, Any]:
    """Return the scaling from which llama.cpp's converter made these factors.

    It writes them as the tensor ``rope_freqs`` and drops the four numbers.
    """
    factor = float(factors.max())
    low, high, original = _LLAMA3_ROPE.values()
    lengths = 2 * math.pi * base ** (np.arange(0, size, 2) / size)
    share = np.clip((original / lengths - low) / (high - low), 0, 1)
    expected = 1 / ((1 - share) / factor + share)
    if expected.shape != factors.shape or not np.allclose(expected, factors, rtol=1e-3):
        raise ModelError(
            "The GGUF file scales its rotary embedding by frequency in another way than Llama 3.1, "
            "the one that is accepted."
        )
    return {"rope_type": "llama3", "rope_theta": base, "factor": factor, **_LLAMA3_ROPE}


def _llama_config(header: Header, factors: np.ndarray | None) -> "PreTrainedConfig":
    from transformers import LlamaConfig

    sizes = _sizes(header, "llama")
    head = header.get(
        "llama.attention.key_length", sizes["hidden_size"] // sizes["num_attention_heads"]
    )
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        head_dim=head,
        rope_parameters=_rope(header, "llama", factors, size=head),
        **sizes,
    )


def _undo_llama(name: str, values: np.ndarray, config: "PreTrainedConfig") -> np.ndarray:
    """Undo the row order that llama.cpp gives Q and K for its rotary embedding."""
    if ".attn_q." in name:
        heads = config.num_attention_heads
    elif ".attn_k." in name:
        heads = config.num_key_value_heads
    else:
        return values
    rows, columns = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _qwen2_config(header: Header, factors: np.ndarray | None) -> "PreTrainedConfig":
    from transformers import Qwen2Config

    sizes = _sizes(header, "qwen2")
    return Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        rope_parameters=_rope(
            header,
            "qwen2",
            factors,
            size=sizes["hidden_size"] // sizes["num_attention_heads"],
        ),
        **sizes,
    )


def _as_it_is(name: str, values: np.ndarray, config: "PreTrainedConfig") -> np.ndarray:
    return values


def _gemma3_config(header: Header, factors: np.ndarray | None) -> "PreTrainedConfig":
    from transformers import Gemma3TextConfig

    sizes = _sizes(header, "gemma3")
    head_dim = header.require("gemma3.attention.key_length")
    return Gemma3TextConfig(
        architectures=["Gemma3ForCausalLM"],
        head_dim=head_dim,
        # As llama.cpp has it: the model with 62 layers alone is scaled by another size.
        query_pre_attn_scalar=sizes["hidden_size"] // sizes["num_attention_heads"]
        if sizes["num_hidden_layers"] == 62
        else head_dim,
        sliding_window=header.require("gemma3.attention.sliding_window"),
        # Not in the header: every sixth layer attends to everything, the others to a window whose
        # rotary base is 10,000 (Gemma 3 technical report, arXiv 2503.19786, section 2).
        layer_types=[
            "full_attention" if (layer + 1) % 6 == 0 else "sliding_attention"
            for layer in range(sizes["num_hidden_layers"])
        ],
        rope_parameters={
            "full_attention": _rope(header, "gemma3", factors, size=head_dim),
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        **sizes,
    )


def _undo_gemma3(name: str, values: np.ndarray, config: "PreTrainedConfig") -> np.ndarray:
    """Undo llama.cpp's norms of `1 + w`: transformers adds the one itself."""
    return values - 1 if name.endswith("norm.weight") else values


#: Those that are converted here; what else there is, transformers reads.
ARCHITECTURES = {
    "llama": Architecture(
        config=_llama_config,
        block_names={"ffn_norm": "post_attention_layernorm"},
        undo=_undo_llama,
    ),
    "qwen2": Architecture(
        config=_qwen2_config,
        block_names={"ffn_norm": "post_attention_layernorm"},
        undo=_as_it_is,
    ),
    "gemma3": Architecture(
        config=_gemma3_config,
        block_names={
            "attn_q_norm": "self_attn.q_norm",
            "attn_k_norm": "self_attn.k_norm",
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        undo=_undo_gemma3,
    ),
}
