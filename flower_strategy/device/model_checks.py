"""Checks a base model's files without loading its weights.

Every fault is reported as one sentence before a run starts. Otherwise transformers would raise its
own errors on every device, or silently continue with random weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from floe_plugins.errors import ConfigError, FloeError, ModelError, first_line
from floe_plugins.models.resolver import TOKENIZER_FILES

_PROBE = "The quick brown fox, 42."
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

# The files that transformers makes a tokenizer from. A custom class may read other files, named in
# tokenizer_config.json.
_TOKENIZERS = (*TOKENIZER_FILES, "tokenizer_config.json", "spiece.model")


class BaseModelError(FloeError, ValueError):
    """Floe cannot adapt the base model; the message says what it lacks."""


def read_config(name: str, path: str) -> Any:
    """Return a model's transformers configuration.

    Parameters
    ----------
    name : str
        The user's name for the model.
    path : str
        Its folder or hub id.

    Raises
    ------
    ModelError
        There is none, or it cannot be read.
    BaseModelError
        It does not belong to a causal language model.
    """
    try:
        config = AutoConfig.from_pretrained(path)
    # OSError, ValueError, KeyError, and what the hub's client and a configuration's checks raise.
    except Exception as error:
        raise ModelError(_unreadable("configuration", name, path, error)) from error
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise BaseModelError(
            f"Model {name!r} is an encoder with a decoder ({kind}); a causal language model, such "
            "as a Llama, is needed."
        )
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    if causal is None:
        raise BaseModelError(
            f"Model {name!r} is of the kind {kind!r}, of which transformers has no causal language "
            "model; one is needed, such as a Llama."
        )
    saved = list(getattr(config, "architectures", None) or [])
    known = {str(value) for value in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}
    if saved and not any(each in known or each.endswith("ForCausalLM") for each in saved):
        raise BaseModelError(
            f"Model {name!r} was saved as {', '.join(saved)}, which has no head that predicts the "
            f"next token; a causal language model is needed, such as {causal}."
        )
    return config


def empty_model(name: str, config: Any) -> Any:
    """Return a configuration's model on torch's ``meta`` device: shapes without weights.

    Raises
    ------
    BaseModelError
        transformers cannot build it.
    """
    factory: Any = AutoModelForCausalLM
    try:
        with torch.device("meta"):
            model = factory.from_config(config)
    # A configuration's numbers may contradict each other; every model class raises its own error.
    except Exception as error:
        raise BaseModelError(
            f"Model {name!r} cannot be built from its configuration: {first_line(error)}"
        ) from error
    if model.get_output_embeddings() is None:
        raise BaseModelError(f"Model {name!r} has no head that predicts the next token.")
    return model


def read_tokenizer(name: str, path: str) -> Any:
    """Return a model's tokenizer.

    Raises
    ------
    ModelError
        There is none, or it yields no tokens for a text.
    """
    folder = Path(path)
    if folder.is_dir() and not any((folder / file).is_file() for file in _TOKENIZERS):
        raise ModelError(
            f"The folder of model {name!r} has no tokenizer: none of {', '.join(_TOKENIZERS)} is "
            f"in {_where(path)}."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        tokens = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    # OSError, ValueError, and a bare `Exception` from the tokenizers library.
    except Exception as error:
        raise ModelError(_unreadable("tokenizer", name, path, error)) from error
    if not tokens:
        raise ModelError(
            f"The tokenizer of model {name!r} makes no tokens of {_PROBE!r}: files are missing "
            f"from {_where(path)}, such as tokenizer.json."
        )
    return tokenizer


def check_tokenizer(name: str, tokenizer: Any, *, vocabulary: int) -> None:
    """Check that a tokenizer belongs to the model.

    Parameters
    ----------
    name : str
        The user's name for the model.
    tokenizer : Any
        Its tokenizer.
    vocabulary : int
        Rows of the model's embedding table.

    Raises
    ------
    BaseModelError
        A text, its end or its padding has a token without an embedding in the model; or the
        tokenizer has no end-of-text token, without which an adapter cannot learn when to stop.
    """
    if tokenizer.eos_token_id is None:
        raise BaseModelError(
            f"The tokenizer of model {name!r} has no end-of-text token, so an adapter could not "
            "learn where an answer ends: set eos_token in its tokenizer_config.json."
        )
    probe = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    largest = max(*probe, tokenizer.eos_token_id, tokenizer.pad_token_id or 0)
    if largest >= vocabulary:
        raise BaseModelError(
            f"The tokenizer of model {name!r} has the token {largest}, and the model embeds "
            f"{vocabulary} tokens: the tokenizer is another model's."
        )


def check_length(name: str, config: Any, *, max_length: int) -> None:
    """Check that examples fit into the model's positions.

    Raises
    ------
    ConfigError
        The model has fewer positions.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < max_length:
        raise ConfigError(
            f"max-length={max_length} is more than the {positions} positions of model {name!r}; "
            f"accepted are 8 to {positions}."
        )


def check_weights(name: str, path: str) -> None:
    """Check that a folder's weight files are complete; models on the hub are not checked.

    Raises
    ------
    ModelError
        A file is missing or damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        return
    for stem in _WEIGHTS:
        if (folder / stem).is_file():
            files = [stem]
        elif (folder / f"{stem}.index.json").is_file():
            files = _shards(name, folder / f"{stem}.index.json")
        else:
            continue
        for file in files:
            _check_file(name, folder / file)
        return
    raise ModelError(
        f"The folder of model {name!r} has no weights: none of {', '.join(_WEIGHTS)} is in "
        f"{_where(path)}."
    )


def _shards(name: str, index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"The list of weights {index} of model {name!r} cannot be read: {first_line(error)}."
        ) from error


def _check_file(name: str, file: Path) -> None:
    if not file.is_file():
        raise ModelError(f"The weights of model {name!r} are not whole: {file} is missing.")
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"The weights of model {name!r} are damaged: {file}: {first_line(error)}."
            ) from error


def _unreadable(what: str, name: str, path: str, error: Exception) -> str:
    if Path(path).is_dir():
        return (
            f"The {what} of model {name!r} cannot be read from {_where(path)}: "
            f"{type(error).__name__}: {first_line(error)}"
        )
    return (
        f"Model {name!r} is no folder here (tried {Path(name).expanduser().absolute()}), and its "
        f"{what} cannot be had from the hub: {first_line(error)}"
    )


def _where(path: str) -> str:
    return str(Path(path).absolute()) if Path(path).is_dir() else path
