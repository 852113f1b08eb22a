"""A base model whose linear layers bitsandbytes quantises, on CUDA."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from floe_plugins.errors import ConfigError
from floe_plugins.extras import install_command


def quantization_config(kind: str, dtype: str) -> Any | None:
    """Return transformers' configuration of a quantised model; None where nothing is quantised.

    Parameters
    ----------
    kind : str
        ``none``, ``4bit`` (NF4 with the type `dtype` in products, as QLoRA: Dettmers et al., arXiv
        2305.14314) or ``8bit``.
    dtype : str
        Name of the torch type of what is not quantised.

    Raises
    ------
    ConfigError
        This machine has no CUDA GPU that torch can use, or no bitsandbytes.
    """
    if kind == "none":
        return None
    if not torch.cuda.is_available():
        raise ConfigError(
            f"quantization={kind!r} needs a CUDA GPU, and torch finds none here: on a CPU only "
            "'none' is accepted."
        )
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"quantization={kind!r} needs bitsandbytes, which is not installed here: "
            f"{install_command('quantization')}."
        )
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
