"""Adapters as folders in PEFT's format, which vLLM, llama.cpp and PEFT read."""

from __future__ import annotations

from pathlib import Path

from safetensors.numpy import save

from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.adapters.modules import AdaptedModules


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
    (folder / "adapter_model.safetensors").write_bytes(weights)
