"""Turns a GGUF file into a Hugging Face checkpoint folder.

transformers reads GGUF too, with ``from_pretrained(..., gguf_file=...)``, but a checkpoint saved
from there needs repairs, and it holds all weights in memory at once. So the commonest
architectures are converted here, tensor by tensor, with the `gguf` package; the rest are read by
transformers. The tokenizer conversion is transformers', repaired.
"""

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from floe_plugins.errors import ModelError
from floe_plugins.models.gguf_architectures import ARCHITECTURES
from floe_plugins.models.gguf_tokenizer import Marks, drop_fillers, find_marks, read_tokenizer

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor
    from transformers import PreTrainedConfig

_WEIGHTS = "model.safetensors"

# The names of the types in transformers -> in safetensors.
_TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

_EMBEDDING = "model.embed_tokens.weight"

# Factors of the rotary embedding, which are no weights of transformers' models.
_ROPE_FACTORS = "rope_freqs.weight"

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


class _Header:
    """The fields of an open file's header."""

    def __init__(self, reader: "GGUFReader", *, file: str) -> None:
        self._reader = reader
        self._file = file

    def get(self, key: str, default: Any = None) -> Any:
        found = self._reader.get_field(key)
        return default if found is None else found.contents()

    def require(self, key: str) -> Any:
        found = self._reader.get_field(key)
        if found is None:
            raise ModelError(f"The header of {self._file} lacks {key}.")
        return found.contents()


def write_checkpoint(
    gguf_path: Path, folder: Path, *, advance: Callable[[str, int], None] | None = None
) -> None:
    """Write the model of a GGUF file as a Hugging Face checkpoint.

    Parameters
    ----------
    gguf_path : Path
        A GGUF file of an architecture in `ARCHITECTURES`, which is read tensor by tensor, or of
        another one that transformers reads, whose weights are in memory all at once.
    folder : Path
        An existing empty folder. Gets ``config.json``, ``generation_config.json``,
        ``model.safetensors`` (float16 or float32 where all matrices of the file are; bfloat16
        otherwise, since the values come from 4 to 8 bits) and the tokenizer.
    advance : callable, optional
        Called with the stage's name and the number of bytes of the GGUF file processed since the
        last call.

    Raises
    ------
    ModelError
        If the file is damaged, or its architecture or its tensors are not those of a supported
        model.
    """
    from transformers import GenerationConfig

    report = advance or (lambda stage, done: None)
    report("reading the header", 0)
    reader = _reader(gguf_path)
    header = _Header(reader, file=gguf_path.name)
    parts = header.get("split.count", 1)
    if parts > 1:
        raise ModelError(
            f"{gguf_path.name} is one of {parts} parts of a model: join them with "
            "`llama-gguf-split --merge`."
        )
    name = header.require("general.architecture")
    tokens = header.require("tokenizer.ggml.tokens")
    marks = find_marks(header, tokens)
    to: Any = {"marks": marks, "dtype": _dtype(reader.tensors), "folder": folder}
    if name in ARCHITECTURES:
        _convert(reader, header, report=report, **to)
    else:
        _let_transformers_convert(gguf_path, name, **to)
    GenerationConfig(
        bos_token_id=marks.bos,
        eos_token_id=list(marks.ends) if len(marks.ends) > 1 else marks.eos,
        pad_token_id=marks.pad,
    ).save_pretrained(folder)

    report("converting the tokenizer", 0)
    length = header.require(f"{name}.context_length")
    tokenizer = read_tokenizer(gguf_path, header, marks, max_length=length)
    with _system_errors():
        tokenizer.save_pretrained(folder)
    drop_fillers(folder, tokens)


def _convert(
    reader: "GGUFReader",
    header: _Header,
    *,
    marks: Marks,
    dtype: str,
    folder: Path,
    report: Callable[[str, int], None],
) -> None:
    """Write configuration and weights; one tensor at a time is in memory."""
    import torch

    architecture = ARCHITECTURES[header.require("general.architecture")]
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    factors = tensors.pop(_ROPE_FACTORS, None)
    config = architecture.config(header, None if factors is None else np.asarray(factors.data))
    _mark(config, marks, dtype)
    config.tie_word_embeddings = "output.weight" not in tensors
    block_names = _BLOCK_NAMES | architecture.block_names
    named = {_transformers_name(name, block_names): each for name, each in tensors.items()}
    # GGUF has the sizes from the innermost to the outermost.
    shapes = {name: tuple(map(int, reversed(each.shape))) for name, each in named.items()}
    config.vocab_size = shapes.get(_EMBEDDING, (0,))[0]
    _check_shapes(shapes, config)
    config.save_pretrained(folder)

    report("converting the weights", 0)
    with (folder / _WEIGHTS).open("wb") as file:
        file.write(_safetensors_header(shapes, dtype))
        for tensor in named.values():
            values = architecture.undo(tensor.name, _dequantized(tensor), config)
            # Tensors that were never quantized are still views of the read-only file.
            writable = np.require(values, requirements=["C", "W"])
            converted = torch.from_numpy(writable).to(getattr(torch, dtype))
            file.write(converted.view(torch.uint8).numpy().data)
            report("converting the weights", int(tensor.n_bytes))


def _let_transformers_convert(
    gguf_path: Path, name: str, *, marks: Marks, dtype: str, folder: Path
) -> None:
    """Write configuration and weights of an architecture that transformers alone reads."""
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    # Since 5.19 weights stay packed, and cannot be saved, where they need not be.
    packing = getattr(transformers, "GgufConfig", None)
    plain = {} if packing is None else {"quantization_config": packing(dequantize=True)}
    where: Any = {
        "pretrained_model_name_or_path": str(gguf_path.parent),
        "gguf_file": gguf_path.name,
    }
    try:
        config = AutoConfig.from_pretrained(**where)
    except (KeyError, ValueError) as error:
        accepted = ", ".join(sorted(ARCHITECTURES))
        raise ModelError(
            f"{gguf_path.name} is of architecture {name!r}; accepted are {accepted}, and those "
            "whose GGUF files transformers reads."
        ) from error
    # What is no token of this file, such as a default of the padding, is no row of its embedding.
    _mark(config, marks, dtype)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            **where, **plain, config=config, dtype=dtype, output_loading_info=True
        )
    except (KeyError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"transformers cannot read {gguf_path.name}, of architecture {name!r}: "
            f"{' '.join(str(error).split())}"
        ) from error
    # Weights that are not there are random, and only a warning says so.
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{gguf_path.name} lacks {len(missing)} tensors of {type(model).__name__}, first "
            f"{missing[0]!r}."
        )
    with _system_errors():
        model.save_pretrained(folder)


def _mark(config: "PreTrainedConfig", marks: Marks, dtype: str) -> None:
    config.bos_token_id, config.eos_token_id = marks.bos, marks.eos
    config.pad_token_id = marks.pad
    config.dtype = dtype


def _dtype(tensors: "Sequence[ReaderTensor]") -> str:
    """Return the type of all matrices, or bfloat16."""
    kinds = {tensor.tensor_type.name for tensor in tensors if len(tensor.shape) > 1}
    exact = {"F16": "float16", "F32": "float32"}
    return exact.get(kinds.pop(), "bfloat16") if len(kinds) == 1 else "bfloat16"


def _dequantized(tensor: "ReaderTensor") -> np.ndarray:
    from gguf import dequantize

    try:
        values: np.ndarray = dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        raise ModelError(
            f"The tensor {tensor.name!r} is of the type {tensor.tensor_type.name}, which the "
            "package gguf cannot convert: take a file of another quantization."
        ) from error
    return values


def _safetensors_header(shapes: dict[str, tuple[int, ...]], dtype: str) -> bytes:
    """Return what stands in front of the tensors, which follow in this order without gaps.

    The format is 8 bytes of length, little-endian, then JSON; spaces make its end a multiple of 8
    (https://github.com/huggingface/safetensors#format).
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * _BYTES[dtype]
        entries[name] = {"dtype": _TYPES[dtype], "shape": shape, "data_offsets": [begin, end]}
    content = json.dumps(entries, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content


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

    try:
        return PlainReader(gguf_path)
    except (IndexError, KeyError, UnicodeDecodeError, ValueError) as error:
        raise ModelError(
            f"{gguf_path.name} is no whole GGUF file ({' '.join(str(error).split())}): get it anew."
        ) from error


def _transformers_name(name: str, block_names: dict[str, str]) -> str:
    stem, _, suffix = name.rpartition(".")
    if stem.startswith("blk."):
        _, layer, inner = stem.split(".", 2)
        if inner in block_names:
            return f"model.layers.{layer}.{block_names[inner]}.{suffix}"
    elif stem in _MODEL_NAMES:
        return f"{_MODEL_NAMES[stem]}.{suffix}"
    raise ModelError(f"The GGUF file holds the tensor {name!r}, which the architecture lacks.")


def _check_shapes(found: dict[str, tuple[int, ...]], config: "PreTrainedConfig") -> None:
    """Refuse a set of tensors that is not exactly the model's."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    if found != expected:
        wrong = sorted(
            name for name in expected.keys() | found if expected.get(name) != found.get(name)
        )
        raise ModelError(
            f"The GGUF file's tensors are not those of {type(model).__name__}: "
            f"{len(wrong)} are missing, unknown or of another shape, first {wrong[0]!r}."
        )
