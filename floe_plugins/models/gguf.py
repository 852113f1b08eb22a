"""Turns a GGUF file into a Hugging Face checkpoint folder.

transformers reads GGUF too, with ``from_pretrained(..., gguf_file=...)``, but a checkpoint saved
from there needs three repairs, and it parses the file's header several times over (it takes 75 s
for Gemma 3 270M, this takes 20 s). So this module uses and repairs its tokenizer conversion, and
reads the tensors with the `gguf` package and writes them straight to safetensors.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from floe_plugins.errors import ModelError

if TYPE_CHECKING:
    import torch
    from gguf import GGUFReader
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

# llama.cpp's tensor names (gguf-py/gguf/constants.py) and those of transformers.
_BLOCK_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_MODEL_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


@dataclass(frozen=True)
class _Architecture:
    """How one llama.cpp architecture maps onto transformers.

    Attributes
    ----------
    config : callable
        Header field lookup -> transformers configuration.
    block_names : dict
        Tensor names inside a block, on top of `_BLOCK_NAMES`.
    undo : callable
        Called with a tensor's llama.cpp name, its values and the configuration; undoes the changes
        of llama.cpp's converter.
    """

    config: Callable[[Callable[[str], Any]], "PreTrainedConfig"]
    block_names: dict[str, str]
    undo: Callable[[str, np.ndarray, "PreTrainedConfig"], np.ndarray]


def _llama_config(field: Callable[[str], Any]) -> "PreTrainedConfig":
    from transformers import LlamaConfig

    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        hidden_size=field("llama.embedding_length"),
        intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=field("llama.block_count"),
        num_attention_heads=field("llama.attention.head_count"),
        num_key_value_heads=field("llama.attention.head_count_kv"),
        max_position_embeddings=field("llama.context_length"),
        rms_norm_eps=round(field("llama.attention.layer_norm_rms_epsilon"), 12),
        rope_parameters={"rope_type": "default", "rope_theta": field("llama.rope.freq_base")},
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


def _gemma3_config(field: Callable[[str], Any]) -> "PreTrainedConfig":
    from transformers import Gemma3TextConfig

    layers = field("gemma3.block_count")
    head_dim = field("gemma3.attention.key_length")
    return Gemma3TextConfig(
        architectures=["Gemma3ForCausalLM"],
        hidden_size=field("gemma3.embedding_length"),
        intermediate_size=field("gemma3.feed_forward_length"),
        num_hidden_layers=layers,
        num_attention_heads=field("gemma3.attention.head_count"),
        num_key_value_heads=field("gemma3.attention.head_count_kv"),
        head_dim=head_dim,
        query_pre_attn_scalar=head_dim,
        max_position_embeddings=field("gemma3.context_length"),
        rms_norm_eps=round(field("gemma3.attention.layer_norm_rms_epsilon"), 12),
        sliding_window=field("gemma3.attention.sliding_window"),
        # Not in the header: every sixth layer attends to everything, the others to a window whose
        # rotary base is 10,000 (Gemma 3 technical report, arXiv 2503.19786, section 2).
        layer_types=[
            "full_attention" if (layer + 1) % 6 == 0 else "sliding_attention"
            for layer in range(layers)
        ],
        rope_parameters={
            "full_attention": {
                "rope_type": "default",
                "rope_theta": field("gemma3.rope.freq_base"),
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    )


def _undo_gemma3(name: str, values: np.ndarray, config: "PreTrainedConfig") -> np.ndarray:
    """Undo llama.cpp's norms of `1 + w`: transformers adds the one itself."""
    return values - 1 if name.endswith("norm.weight") else values


_ARCHITECTURES = {
    "llama": _Architecture(
        config=_llama_config,
        block_names={"ffn_norm": "post_attention_layernorm"},
        undo=_undo_llama,
    ),
    "gemma3": _Architecture(
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


def write_checkpoint(
    gguf_path: Path, folder: Path, *, advance: Callable[[str, int], None] | None = None
) -> None:
    """Write the model of a GGUF file as a Hugging Face checkpoint.

    Parameters
    ----------
    gguf_path : Path
        A GGUF file of architecture ``llama`` or ``gemma3``.
    folder : Path
        An existing empty folder. Gets ``config.json``, ``generation_config.json``,
        ``model.safetensors`` (bfloat16: the values come from 4 to 8 bits) and the tokenizer.
    advance : callable, optional
        Called with the stage's name and the number of bytes of the GGUF file processed since the
        last call.

    Raises
    ------
    ModelError
        If the file's architecture or its tensors are not those of a supported model.
    """
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    report = advance or (lambda stage, done: None)
    report("reading the header", 0)
    reader = _reader(gguf_path)

    def field(key: str) -> Any:
        found = reader.get_field(key)
        return None if found is None else found.contents()

    name = field("general.architecture")
    if name not in _ARCHITECTURES:
        accepted = ", ".join(sorted(_ARCHITECTURES))
        raise ModelError(f"{gguf_path.name} is of architecture {name!r}; accepted are {accepted}.")
    architecture = _ARCHITECTURES[name]

    config = architecture.config(field)
    config.bos_token_id = field("tokenizer.ggml.bos_token_id")
    config.eos_token_id = field("tokenizer.ggml.eos_token_id")
    config.pad_token_id = field("tokenizer.ggml.padding_token_id")
    config.tie_word_embeddings = all(tensor.name != "output.weight" for tensor in reader.tensors)
    config.dtype = "bfloat16"

    report("converting the weights", 0)
    state = _state(reader, architecture, config, report)
    config.vocab_size = state["model.embed_tokens.weight"].shape[0]
    _check_state(state, config)

    report("writing the weights", 0)
    config.save_pretrained(folder)
    weights = folder / "model.safetensors"
    with _system_errors():
        save_file(state, weights, metadata={"format": "pt"})
    # safetensors makes its file readable for the owner only.
    weights.chmod((folder / "config.json").stat().st_mode)
    GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    ).save_pretrained(folder)

    report("converting the tokenizer", 0)
    tokenizer = _tokenizer(
        gguf_path,
        pre_tokenizer=field("tokenizer.ggml.pre"),
        add_bos=bool(field("tokenizer.ggml.add_bos_token")),
    )
    tokenizer.model_max_length = config.max_position_embeddings
    with _system_errors():
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """Restore the type of file-system errors.

    safetensors and tokenizers report them as an exception of their own, or a plain `Exception`,
    whose text ends in "(os error 28)".
    """
    try:
        yield
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def _reader(gguf_path: Path) -> "GGUFReader":
    """Open the file with a reader whose slices are plain arrays.

    Slicing a `numpy.memmap` costs ten times as much as slicing an array, and the reader slices
    several times per vocabulary entry: 17 s against 5 s for Gemma's 262,144.
    """
    from gguf import GGUFReader

    class PlainReader(GGUFReader):
        @property
        def data(self) -> Any:
            return self._plain

        @data.setter
        def data(self, mapped: Any) -> None:
            self._plain = np.asarray(mapped)

    return PlainReader(gguf_path)


def _state(
    reader: "GGUFReader",
    architecture: _Architecture,
    config: "PreTrainedConfig",
    report: Callable[[str, int], None],
) -> "dict[str, torch.Tensor]":
    import torch
    from gguf import dequantize

    block_names = _BLOCK_NAMES | architecture.block_names
    state = {}
    for tensor in reader.tensors:
        values = architecture.undo(tensor.name, dequantize(tensor.data, tensor.tensor_type), config)
        name = _transformers_name(tensor.name, block_names)
        # Tensors that were never quantized are still views of the read-only file.
        writable = np.require(values, requirements=["C", "W"])
        state[name] = torch.from_numpy(writable).to(torch.bfloat16)
        report("converting the weights", int(tensor.n_bytes))
    return state


def _transformers_name(name: str, block_names: dict[str, str]) -> str:
    stem, _, suffix = name.rpartition(".")
    if stem.startswith("blk."):
        _, layer, inner = stem.split(".", 2)
        if inner in block_names:
            return f"model.layers.{layer}.{block_names[inner]}.{suffix}"
    elif stem in _MODEL_NAMES:
        return f"{_MODEL_NAMES[stem]}.{suffix}"
    raise ModelError(f"The GGUF file holds the tensor {name!r}, which the architecture lacks.")


def _check_state(state: "dict[str, torch.Tensor]", config: "PreTrainedConfig") -> None:
    """Refuse a set of tensors that is not exactly the model's."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    found = {name: tensor.shape for name, tensor in state.items()}
    if found != expected:
        wrong = sorted(
            name for name in expected.keys() | found if expected.get(name) != found.get(name)
        )
        raise ModelError(
            f"The GGUF file's tensors are not those of {type(model).__name__}: "
            f"{len(wrong)} are missing, unknown or of another shape, first {wrong[0]!r}."
        )


def _tokenizer(gguf_path: Path, *, pre_tokenizer: str, add_bos: bool) -> "PreTrainedTokenizerFast":
    """Convert the tokenizer, and repair what transformers' conversion leaves out."""
    from tokenizers import pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
        str(gguf_path.parent), gguf_file=gguf_path.name, clean_up_tokenization_spaces=False
    )
    backend = tokenizer.backend_tokenizer
    if pre_tokenizer == "smollm":
        # SmolLM splits digits off one by one before the byte-level split, which decides how the
        # spaces before a number are split (llama.cpp: LLAMA_VOCAB_PRE_TYPE_SMOLLM).
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    if add_bos:
        bos = tokenizer.bos_token
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos}:1 $B:1",
            special_tokens=[(bos, tokenizer.bos_token_id)],
        )
    return tokenizer
