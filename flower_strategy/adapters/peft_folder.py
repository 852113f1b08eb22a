"""Adapters as folders in PEFT's format, which vLLM and PEFT read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import save

from floe_plugins.errors import first_line
from flower_strategy.adapters.adapter import AdapterError, AdapterState, lora_scaling
from flower_strategy.adapters.modules import AdaptedModules

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
"""PEFT's names."""

#: Fields by which a layer's scaling or its arithmetic differs from ``scaling * b @ a``.
_OTHER_KINDS = ("alpha_pattern", "rank_pattern", "use_dora", "layer_replication", "arrow_config")


def save_adapter(
    adapter: AdapterState,
    folder: Path,
    *,
    rank: int,
    base_model: str,
    modules: AdaptedModules | None = None,
) -> None:
    """Write one adapter in PEFT's format, with alpha equal to the rank, for vLLM to serve.

    vLLM expects one rank and one scaling for all layers. Every layer therefore gets `rank` terms,
    padded with zeros, and the scaling is multiplied into the factors.

    Parameters
    ----------
    adapter : AdapterState
        The adapter; at most `rank` terms.
    folder : Path
        The adapter's folder; made when absent.
    rank : int
        The rank.
    base_model : str
        The base model that PEFT's configuration names.
    modules : AdaptedModules, optional
        How PEFT finds the adapter's modules, and how they store their weights. By default it finds
        them by the last parts of their names, and they store them as (out, in).
    """
    # PEFT writes the file, because its fields differ between releases. Imported late: it imports
    # torch.
    from peft import LoraConfig

    folder.mkdir(parents=True, exist_ok=True)
    whole = adapter.with_scaling(1.0).resized(rank)
    ends = sorted({layer.rpartition(".")[2] for layer in whole.layers})
    LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(modules.targets) if modules else ends,
        fan_in_fan_out=modules is not None and modules.transposed,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_model,
        inference_mode=True,
    ).save_pretrained(str(folder))
    weights = save(whole.to_peft(), metadata={"format": "pt"})
    (folder / WEIGHTS_FILE).write_bytes(weights)


@dataclass(frozen=True, eq=False)
class PeftAdapter:
    """An adapter from a folder in PEFT's format.

    Attributes
    ----------
    adapter : AdapterState
        The adapter with its scaling.
    rank : int
        Its rank.
    base_model : str
        The base model that its configuration names; empty if it names none.
    """

    adapter: AdapterState
    rank: int
    base_model: str


def load_adapter(folder: Path) -> PeftAdapter:
    """Read an adapter from a folder in PEFT's format.

    Parameters
    ----------
    folder : Path
        Of one adapter, by `save_adapter` or by PEFT.

    Raises
    ------
    AdapterError
        A file is absent or damaged, or the adapter is more than a pair of factors and one scaling
        for all layers.
    """
    config = _config(folder)
    for key in _OTHER_KINDS:
        if config.get(key):
            raise AdapterError(
                f"The adapter in {folder} has {key}={config[key]!r}; Floe reads adapters with one "
                "rank and one alpha for all layers."
            )
    weights = _weights(folder / WEIGHTS_FILE)
    scaling = lora_scaling(
        alpha=config["lora_alpha"], rank=config["r"], rslora=bool(config.get("use_rslora"))
    )
    adapter = AdapterState.from_peft(weights, scaling=scaling)
    others = sorted(weights.keys() - adapter.to_peft().keys())
    if others or not adapter.layers:
        found = f"the weight {others[0]!r}" if others else "no factors"
        raise AdapterError(f"The adapter in {folder} holds {found}; Floe reads pairs of factors.")
    return PeftAdapter(adapter, int(config["r"]), config.get("base_model_name_or_path") or "")


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise AdapterError(f"{path} is no JSON: {error}.") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise AdapterError(f"{path} is not the configuration of a LoRA adapter of PEFT.")
    for key, kinds in (("r", int), ("lora_alpha", int | float)):
        if not isinstance(config.get(key), kinds) or config[key] <= 0:
            raise AdapterError(f"{path} has {key}={config.get(key)!r}; a number above 0 is needed.")
    return config


def _weights(path: Path) -> dict[str, Any]:
    # By way of torch, since numpy has no bfloat16.
    from safetensors.torch import load_file

    try:
        return {name: value.float().numpy() for name, value in load_file(path).items()}
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror or error}.") from error
    except SafetensorError as error:
        raise AdapterError(f"{path} is damaged: {first_line(error)}.") from error
