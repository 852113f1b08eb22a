"""The frozen base model on a device, and LoRA adapters on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from floe_plugins import models
from floe_plugins.errors import ModelError, first_line
from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.device.model_checks import (
    BaseModelError,
    check_length,
    check_tokenizer,
    check_weights,
    empty_model,
    read_config,
    read_tokenizer,
)
from flower_strategy.device.quantization import quantization_config

__all__ = [
    "BaseModel",
    "BaseModelError",
    "adapted",
    "adapted_shapes",
    "check_base_model",
    "from_peft",
    "layer_shapes",
    "load_base_model",
    "to_peft",
]

if TYPE_CHECKING:
    from peft import PeftModel

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The projections that carry LoRA factors: all seven of a Llama-like block."""


@dataclass(frozen=True, eq=False)
class BaseModel:
    """A frozen causal language model with its tokenizer.

    Attributes
    ----------
    path : str
        Folder or hub id that it was loaded from.
    model : Any
        ``transformers`` causal language model on `device`, without gradients.
    tokenizer : Any
        Its tokenizer.
    device : torch.device
        Where it computes.
    """

    path: str
    model: Any
    tokenizer: Any
    device: torch.device

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights; tied weights count once."""
        return sum(weight.numel() * weight.element_size() for weight in self.model.parameters())


@lru_cache(maxsize=1)
def load_base_model(name: str, dtype: str = "float32", quantization: str = "none") -> BaseModel:
    """Load a base model; the process keeps the last one, because every message needs it.

    Parameters
    ----------
    name : str
        Folder, hub id, or embedded model.
    dtype : str (default: "float32")
        Name of a torch floating type.
    quantization : str (default: "none")
        ``4bit`` or ``8bit`` quantises the linear layers, see `quantization_config`.

    Raises
    ------
    floe_plugins.errors.ModelError
        The name cannot be resolved, or its files are incomplete.
    floe_plugins.errors.ConfigError
        This device cannot quantise.
    BaseModelError
        It is not a causal language model.
    """
    quantised = quantization_config(quantization, dtype)
    path = models.resolve(name, progress=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = read_config(name, path)
    tokenizer = read_tokenizer(name, path)
    factory: Any = AutoModelForCausalLM
    # Quantised weights are made on the device, and cannot be moved.
    place: dict[str, Any] = {}
    if quantised:
        here = torch.cuda.current_device()
        place = {"quantization_config": quantised, "device_map": {"": here}}
    try:
        with _no_progress_bars():
            model, info = factory.from_pretrained(
                path, config=config, dtype=getattr(torch, dtype), output_loading_info=True, **place
            )
        model.requires_grad_(False)
        model = (model if quantised else model.to(device)).eval()
    # Missing or damaged files, wrong shapes, a package that a quantised checkpoint needs, too
    # little memory: each library raises its own exceptions.
    except Exception as error:
        raise ModelError(
            f"Model {name!r} cannot be loaded: {type(error).__name__}: {first_line(error)}"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"The weights of model {name!r} lack {len(missing)} tensors that its config.json "
            f"describes, among them {missing[0]}."
        )
    return BaseModel(path, model, tokenizer, device)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Turn off progress bars: many simulated devices share one log."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def adapted_shapes(name: str) -> dict[str, tuple[int, int]]:
    """Return layer -> (out, in) of every adapted projection, without loading weights.

    Raises
    ------
    floe_plugins.errors.ModelError
        The name cannot be resolved, or its configuration cannot be read.
    BaseModelError
        It is not a causal language model, or has none of `TARGET_MODULES`.
    """
    path = models.resolve(name, progress=True)
    return _shapes(name, empty_model(name, read_config(name, path)))


def check_base_model(
    name: str, *, max_length: int, weights: bool = False
) -> dict[str, tuple[int, int]]:
    """Check a base model before devices train it, without loading its weights.

    Returns the same as `adapted_shapes`.

    Parameters
    ----------
    name : str
        Folder, hub id, or embedded model.
    max_length : int
        Most tokens of an example.
    weights : bool (default: False)
        Whether its weight files must be on this machine as well, as for simulated devices.

    Raises
    ------
    floe_plugins.errors.ModelError
        The name cannot be resolved, or its files are incomplete.
    floe_plugins.errors.ConfigError
        An example could have more tokens than the model has positions.
    BaseModelError
        It is not a causal language model, has none of `TARGET_MODULES`, or has another model's
        tokenizer.
    """
    path = models.resolve(name, progress=True)
    config = read_config(name, path)
    model = empty_model(name, config)
    shapes = _shapes(name, model)
    check_length(name, config, max_length=max_length)
    vocabulary = model.get_input_embeddings().num_embeddings
    check_tokenizer(name, read_tokenizer(name, path), vocabulary=vocabulary)
    if weights:
        check_weights(name, path)
    return shapes


def _shapes(name: str, model: Any) -> dict[str, tuple[int, int]]:
    shapes = layer_shapes(model)
    if not shapes:
        raise BaseModelError(
            f"Model {name!r} has no linear layer named {', '.join(TARGET_MODULES)}, so there is "
            "nothing to adapt."
        )
    return shapes


def layer_shapes(model: Any) -> dict[str, tuple[int, int]]:
    """Return layer -> (out, in) of a model's adapted projections."""
    return {
        layer: (module.out_features, module.in_features)
        for layer, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and layer.rpartition(".")[2] in TARGET_MODULES
    }


@contextmanager
def adapted(base: BaseModel, adapter: AdapterState, *, dropout: float = 0.0) -> Iterator[PeftModel]:
    """Put an adapter on the base model for the length of the block.

    PEFT's alpha is chosen so that ``alpha / rank`` is the adapter's scaling. In training mode,
    `dropout` is the probability that an input of the factors is left out.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    rank = adapter.rank
    config = LoraConfig(
        r=rank,
        lora_alpha=adapter.scaling * rank,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=list(adapter.layers),
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base.model, config)
    try:
        set_peft_model_state_dict(model, to_peft(adapter))
        yield model
    finally:
        model.unload()


def to_peft(adapter: AdapterState) -> dict[str, torch.Tensor]:
    """Return copies of the factors as tensors, under PEFT's names."""
    return {name: torch.from_numpy(factor.copy()) for name, factor in adapter.to_peft().items()}


def from_peft(state: dict[str, torch.Tensor], *, scaling: float) -> AdapterState:
    """Return the adapter in a PEFT state dictionary."""
    arrays = {name: tensor.detach().float().cpu().numpy() for name, tensor in state.items()}
    return AdapterState.from_peft(arrays, scaling=scaling)
