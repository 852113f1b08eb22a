"""Adapters as GGUF files, which llama.cpp and what is built on it load beside a base model.

llama.cpp computes ``alpha / rank * b @ a`` for each tensor and reads, of the file's header,
``general.type``, ``general.architecture``, ``adapter.type`` and ``adapter.lora.alpha``
(``llama-adapter.cpp``). Tensors have llama.cpp's own names, and where its converter of checkpoints
changes the order of a weight's rows, those of ``b`` change with them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from floe_plugins.errors import FloeError, first_line
from floe_plugins.extras import install_command
from flower_strategy.adapters.adapter import AdapterState, Float32Array, LoraFactors

GGUF_FILE = "adapter_model.gguf"
"""The file's name in an adapter's folder, beside PEFT's."""


class GgufError(FloeError):
    """An adapter cannot be written as GGUF; the message says why."""


@dataclass(frozen=True)
class _Kind:
    """What llama.cpp makes of one of transformers' model types.

    Attributes
    ----------
    architecture : str
        Its name there.
    paired : bool (default: False)
        Whether its converter puts the two halves of each head's rows of Q and K in pairs, for its
        rotary embedding.
    """

    architecture: str
    paired: bool = False


#: Model types of transformers whose adapters a test loads in llama.cpp and compares with PEFT.
KINDS: Mapping[str, _Kind] = {
    "gemma2": _Kind("gemma2"),
    "gemma3_text": _Kind("gemma3"),
    "llama": _Kind("llama", paired=True),
    "mistral": _Kind("llama", paired=True),
    "olmo2": _Kind("olmo2"),
    "phi3": _Kind("phi3"),
    "qwen2": _Kind("qwen2"),
    "qwen3": _Kind("qwen3"),
}


@dataclass(frozen=True, kw_only=True)
class GgufBase:
    """What a GGUF adapter takes over from its base model.

    Attributes
    ----------
    architecture : str
        llama.cpp's name for it.
    layers : int
        How many the model has.
    heads : tuple[int, int] or None
        Query and key heads whose rows are paired; None where rows keep their order.
    tied : bool
        Whether the output layer is the embedding, which then has no tensor of its own.
    """

    architecture: str
    layers: int
    heads: tuple[int, int] | None
    tied: bool


def gguf_base(base_model: str) -> GgufBase:
    """Return what a base model's adapters in GGUF need to know of it.

    Parameters
    ----------
    base_model : str
        A folder or a hub id, as `floe_plugins.models.resolve` returns it.

    Raises
    ------
    GgufError
        The package ``gguf`` is absent, the model's configuration cannot be read, or its type is not
        one of `KINDS`.
    """
    if importlib.util.find_spec("gguf") is None:
        raise GgufError(
            "GGUF files need the package gguf, which is not installed: run "
            f"{install_command('federated')}."
        )
    # Late: it takes seconds.
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(base_model)
    except (OSError, ValueError) as error:
        raise GgufError(
            f"The configuration of {base_model} cannot be read: {first_line(error)}"
        ) from error
    kind = KINDS.get(config.model_type)
    if kind is None:
        raise GgufError(
            f"Floe writes no GGUF adapters for models of type {config.model_type!r}; it does for "
            f"{', '.join(KINDS)}."
        )
    return GgufBase(
        architecture=kind.architecture,
        layers=config.num_hidden_layers,
        heads=(config.num_attention_heads, config.num_key_value_heads) if kind.paired else None,
        tied=config.tie_word_embeddings,
    )


def save_gguf(adapter: AdapterState, path: Path, *, base: GgufBase, rank: int) -> None:
    """Write an adapter as a GGUF file in float16, with alpha equal to the rank.

    Parameters
    ----------
    adapter : AdapterState
        The adapter; its scaling is multiplied into ``b``.
    path : Path
        The file; written over.
    base : GgufBase
        What `gguf_base` returned.
    rank : int
        Terms of every layer; at least the adapter's, which are padded with zeros.

    Raises
    ------
    GgufError
        A layer has no tensor in llama.cpp, or a number is too large for float16.
    OSError
        The file cannot be written.
    """
    whole = adapter.with_scaling(1.0).resized(rank)
    names = _tensor_names(whole.layers, base)
    tensors: dict[str, Any] = {}
    # In one order, so that the same adapter makes the same file.
    for layer, factors in sorted(whole.layers.items()):
        for end, values in (("a", factors.a), ("b", _rows(names[layer], factors, base))):
            tensors[f"{names[layer]}.lora_{end}"] = _half(layer, values)

    from gguf import GGUFType, GGUFWriter, Keys

    writer = GGUFWriter(path, base.architecture)
    try:
        writer.add_type(GGUFType.ADAPTER)
        writer.add_string(Keys.Adapter.TYPE, "lora")
        writer.add_float32(Keys.Adapter.LORA_ALPHA, float(rank))
        for name, halves in tensors.items():
            writer.add_tensor(name, halves)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _tensor_names(layers: Iterable[str], base: GgufBase) -> dict[str, str]:
    """Return layer -> the name of its weight in llama.cpp."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    (architecture,) = (each for each, name in MODEL_ARCH_NAMES.items() if name == base.architecture)
    table = get_tensor_name_map(architecture, base.layers)
    names = {}
    for layer in layers:
        name = table.get_name(layer)
        if name is None:
            raise GgufError(
                f"llama.cpp has no tensor for the layer {layer!r} of the architecture "
                f"{base.architecture}."
            )
        if name == "output" and base.tied:
            raise GgufError(
                f"The layer {layer!r} is the embedding, too, and llama.cpp has no tensor of its "
                "own for it: leave it out of target-modules."
            )
        names[layer] = f"{name}.weight"
    return names


def _rows(name: str, factors: LoraFactors, base: GgufBase) -> Float32Array:
    """Return ``b`` with its rows in the order of llama.cpp's tensor."""
    if base.heads is None or (".attn_q." not in name and ".attn_k." not in name):
        return factors.b
    heads = base.heads[".attn_k." in name]
    rows, rank = factors.b.shape
    # Of each head, transformers has the first halves of all pairs, then the second halves.
    halves = factors.b.reshape(heads, 2, rows // heads // 2, rank)
    return halves.swapaxes(1, 2).reshape(rows, rank)


def _half(layer: str, values: Float32Array) -> Any:
    if np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
        raise GgufError(f"Layer {layer!r} holds {np.abs(values).max():g}, too large for float16.")
    return np.ascontiguousarray(values, dtype=np.float16)
