"""Federated fine-tuning of a small language model with Flower.

`FloeStrategy` gives each device a LoRA rank that its hardware affords, clusters devices with
similar tasks, and aggregates adapters of different ranks exactly within each cluster. The functions
in `flower_strategy.client` answer its messages on the devices.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flower_strategy.adapter_choice import AdapterChoice, adapter_for_text, choose_adapter
    from flower_strategy.adapters.adapter import AdapterState, LoraFactors, initial_adapter
    from flower_strategy.adapters.mean import AdapterMean, Aggregate, truncate
    from flower_strategy.adapters.modules import AdaptedModules
    from flower_strategy.config import RunConfig
    from flower_strategy.data.examples import Example, LocalData
    from flower_strategy.data.partition import hold_out
    from flower_strategy.device.base_model import adapted_modules, adapted_shapes, load_base_model
    from flower_strategy.device.embedding import embed_texts
    from flower_strategy.device.hardware import Device
    from flower_strategy.initial_arrays import make_initial_arrays
    from flower_strategy.peft_client import lora_config, peft_mod
    from flower_strategy.profile import DeviceProfile
    from flower_strategy.ranks.cost import RankDecision, RankPolicy
    from flower_strategy.ranks.policies import (
        DeadlinePolicy,
        FixedPolicy,
        MemoryPolicy,
        UniformMinPolicy,
    )
    from flower_strategy.ranks.steps import FilledRounds
    from flower_strategy.run_folder import load_history, load_manifest
    from flower_strategy.settings import (
        CheckpointSettings,
        ClusteringSettings,
        EmbeddingSettings,
        Participation,
        ReplyRules,
        TrainingSettings,
    )
    from flower_strategy.strategy import FloeStrategy

# Name -> module. Loaded on first use, so that importing the package stays light.
_HOMES = {
    "AdaptedModules": "adapters.modules",
    "AdapterChoice": "adapter_choice",
    "AdapterMean": "adapters.mean",
    "AdapterState": "adapters.adapter",
    "Aggregate": "adapters.mean",
    "CheckpointSettings": "settings",
    "ClusteringSettings": "settings",
    "DeadlinePolicy": "ranks.policies",
    "Device": "device.hardware",
    "DeviceProfile": "profile",
    "EmbeddingSettings": "settings",
    "Example": "data.examples",
    "FilledRounds": "ranks.steps",
    "FixedPolicy": "ranks.policies",
    "FloeStrategy": "strategy",
    "LocalData": "data.examples",
    "LoraFactors": "adapters.adapter",
    "MemoryPolicy": "ranks.policies",
    "Participation": "settings",
    "RankDecision": "ranks.cost",
    "RankPolicy": "ranks.cost",
    "ReplyRules": "settings",
    "RunConfig": "config",
    "TrainingSettings": "settings",
    "UniformMinPolicy": "ranks.policies",
    "adapted_modules": "device.base_model",
    "adapted_shapes": "device.base_model",
    "adapter_for_text": "adapter_choice",
    "choose_adapter": "adapter_choice",
    "embed_texts": "device.embedding",
    "hold_out": "data.partition",
    "initial_adapter": "adapters.adapter",
    "load_base_model": "device.base_model",
    "load_history": "run_folder",
    "load_manifest": "run_folder",
    "lora_config": "peft_client",
    "make_initial_arrays": "initial_arrays",
    "peft_mod": "peft_client",
    "truncate": "adapters.mean",
}

__all__ = [
    "AdaptedModules",
    "AdapterChoice",
    "AdapterMean",
    "AdapterState",
    "Aggregate",
    "CheckpointSettings",
    "ClusteringSettings",
    "DeadlinePolicy",
    "Device",
    "DeviceProfile",
    "EmbeddingSettings",
    "Example",
    "FilledRounds",
    "FixedPolicy",
    "FloeStrategy",
    "LocalData",
    "LoraFactors",
    "MemoryPolicy",
    "Participation",
    "RankDecision",
    "RankPolicy",
    "ReplyRules",
    "RunConfig",
    "TrainingSettings",
    "UniformMinPolicy",
    "adapted_modules",
    "adapted_shapes",
    "adapter_for_text",
    "choose_adapter",
    "embed_texts",
    "hold_out",
    "initial_adapter",
    "load_base_model",
    "load_history",
    "load_manifest",
    "lora_config",
    "make_initial_arrays",
    "peft_mod",
    "truncate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
