"""The frozen base model on a device, and LoRA adapters on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from floe_plugins import models
from floe_plugins.errors import ModelError, first_line
from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.adapters.modules import AdaptedModules
from flower_strategy.config_keys import ALL_LINEAR
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
from flower_strategy.device.target_modules import find_modules

__all__ = [
    "BaseModel",
    "BaseModelError",
    "adapted",
    "adapted_modules",
    "adapted_shapes",
    "check_base_model",
    "from_peft",
    "layer_shapes",
    "load_base_model",
    "to_peft",
]

if TYPE_CHECKING:
    from peft import PeftModel


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


def adapted_modules(name: str, target_modules: Sequence[str] = (ALL_LINEAR,)) -> AdaptedModules:
    """Return which modules of a base model carry factors, without loading its weights.

    Parameters
    ----------
    name : str
        Folder, hub id, or embedded model.
    target_modules : Sequence[str]
        As in the run configuration.

    Raises
    ------
    floe_plugins.errors.ModelError
        The name cannot be resolved, or its configuration cannot be read.
    floe_plugins.errors.ConfigError
        It has no such module, or none that can carry factors.
    BaseModelError
        It is not a causal language model, or has no linear layer.
    """
    path = models.resolve(name, progress=True)
    return find_modules(empty_model(name, read_config(name, path)), target_modules, name=name)


def adapted_shapes(
    name: str, target_modules: Sequence[str] = (ALL_LINEAR,)
) -> dict[str, tuple[int, int]]:
    """Return path -> (out, in) of every module that carries factors; see `adapted_modules`."""
    return dict(adapted_modules(name, target_modules).shapes)


def check_base_model(
    name: str,
    *,
    max_length: int,
    target_modules: Sequence[str] = (ALL_LINEAR,),
    weights: bool = False,
) -> AdaptedModules:
    """Check a base model before devices train it, without loading its weights.

    Returns the same as `adapted_modules`.

    Parameters
    ----------
    name : str
        Folder, hub id, or embedded model.
    max_length : int
        Most tokens of an example.
    target_modules : Sequence[str]
        As in the run configuration.
    weights : bool (default: False)
        Whether its weight files must be on this machine as well, as for simulated devices.

    Raises
    ------
    floe_plugins.errors.ModelError
        The name cannot be resolved, or its files are incomplete.
    floe_plugins.errors.ConfigError
        An example could have more tokens than the model has positions, or the model has no such
        modules.
    BaseModelError
        It is not a causal language model, has no linear layer, or has another model's tokenizer.
    """
    path = models.resolve(name, progress=True)
    config = read_config(name, path)
    model = empty_model(name, config)
    vocabulary = model.get_input_embeddings().num_embeddings
    modules = find_modules(model, target_modules, name=name)
    check_length(name, config, max_length=max_length)
    check_tokenizer(name, read_tokenizer(name, path), vocabulary=vocabulary)
    if weights:
        check_weights(name, path)
    return modules


def layer_shapes(
    base: BaseModel, target_modules: Sequence[str] = (ALL_LINEAR,)
) -> dict[str, tuple[int, int]]:
    """Return path -> (out, in) of the modules of a loaded model that carry factors."""
    empty = empty_model(base.path, base.model.config)
    return dict(find_modules(empty, target_modules, name=base.path).shapes)


@contextmanager
def adapted(base: BaseModel, adapter: AdapterState, *, dropout: float = 0.0) -> Iterator[PeftModel]:
    """Put an adapter on the base model for the length of the block.

    PEFT's alpha is chosen so that ``alpha / rank`` is the adapter's scaling. In training mode,
    `dropout` is the probability that an input of the factors is left out.

    Raises
    ------
    BaseModelError
        The adapter has factors for a module that the model does not have.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    modules = dict(base.model.named_modules())
    if missing := [path for path in adapter.layers if path not in modules]:
        raise BaseModelError(
            f"The adapter has factors for {missing[0]}, which model {base.path!r} does not have: "
            "it was made for another model, or with another release of transformers."
        )
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.scaling * adapter.rank,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=list(adapter.layers),
        fan_in_fan_out=all(isinstance(modules[path], Conv1D) for path in adapter.layers),
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


def from_peft(state: Mapping[str, torch.Tensor], *, scaling: float) -> AdapterState:
    """Return the adapter in a PEFT state dictionary."""
    arrays = {name: tensor.detach().float().cpu().numpy() for name, tensor in state.items()}
    return AdapterState.from_peft(arrays, scaling=scaling)
