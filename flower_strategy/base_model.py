"""The frozen base model on a device, and LoRA modules put on it for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from floe_plugins import models
from floe_plugins.errors import FloeError
from flower_strategy.adapter import AdapterState, LoraFactors

if TYPE_CHECKING:
    from peft import PeftModel

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The projections that carry LoRA factors: all seven of a Llama-like block."""

_PEFT_PREFIX = "base_model.model."
_PEFT_A, _PEFT_B = ".lora_A.weight", ".lora_B.weight"


class BaseModelError(FloeError, ValueError):
    """The base model has no layers that Floe adapts."""


@dataclass(frozen=True, eq=False)
class BaseModel:
    """A frozen causal language model with its tokenizer.

    Attributes
    ----------
    path : str
        Folder or hub id that it was loaded from.
    model : Any
        ``transformers`` causal language model, no gradients, on `device`.
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
        """Bytes of the weights, tied ones once."""
        return sum(weight.numel() * weight.element_size() for weight in self.model.parameters())


@lru_cache(maxsize=1)
def load_base_model(name: str, dtype: str = "float32") -> BaseModel:
    """Load a base model; the process keeps the last one, since every message needs it.

    Parameters
    ----------
    name : str
        Folder, hub id, or embedded model.
    dtype : str (default: "float32")
        Name of a torch floating type.

    Raises
    ------
    floe_plugins.errors.ModelError
        The name cannot be resolved.
    """
    path = models.resolve(name, progress=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(path)
    with _no_progress_bars():
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
    model.requires_grad_(False)
    return BaseModel(path, model.to(device).eval(), tokenizer, device)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep the bars of many simulated devices out of one log."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def adapted_shapes(name: str) -> dict[str, tuple[int, int]]:
    """Return layer -> (out, in) of every projection that is adapted, without loading weights.

    Raises
    ------
    BaseModelError
        The model has none of `TARGET_MODULES`.
    """
    path = models.resolve(name, progress=True)
    factory: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = factory.from_config(AutoConfig.from_pretrained(path))
    shapes = layer_shapes(model)
    if not shapes:
        raise BaseModelError(
            f"Model {name!r} has no linear layer named {', '.join(TARGET_MODULES)}, so there is "
            "nothing to adapt."
        )
    return shapes


def layer_shapes(model: Any) -> dict[str, tuple[int, int]]:
    """Return layer -> (out, in) of a model's projections that are adapted."""
    return {
        layer: (module.out_features, module.in_features)
        for layer, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and layer.rpartition(".")[2] in TARGET_MODULES
    }


@contextmanager
def adapted(base: BaseModel, adapter: AdapterState) -> Iterator[PeftModel]:
    """Put an adapter on the base model; it is taken off again at the end.

    The adapter's scaling is written as PEFT's alpha, so ``alpha / rank`` is that scaling.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    rank = adapter.rank
    config = LoraConfig(
        r=rank,
        lora_alpha=adapter.scaling * rank,  # type: ignore[arg-type]
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
    """Return the factors under PEFT's names."""
    state = {}
    for layer, factors in adapter.layers.items():
        state[f"{_PEFT_PREFIX}{layer}{_PEFT_A}"] = torch.from_numpy(factors.a.copy())
        state[f"{_PEFT_PREFIX}{layer}{_PEFT_B}"] = torch.from_numpy(factors.b.copy())
    return state


def from_peft(state: dict[str, torch.Tensor], *, scaling: float) -> AdapterState:
    """Return the adapter in a PEFT state dictionary."""
    layers = {}
    for key, a in state.items():
        if key.endswith(_PEFT_A):
            layer = key.removesuffix(_PEFT_A)
            b = state[layer + _PEFT_B]
            layers[layer.removeprefix(_PEFT_PREFIX)] = LoraFactors(
                b=b.detach().float().cpu().numpy(), a=a.detach().float().cpu().numpy()
            )
    return AdapterState(layers, scaling)
