"""Exports a run: one PEFT adapter per cluster, a manifest, and the history.

A result's folder; `flower_strategy.server.result_folders` says where it is::

    manifest.json
    history.json
    cluster-0/adapter_config.json
    cluster-0/adapter_model.safetensors
    cluster-0/adapter_model.gguf                   # the same for llama.cpp, if it can be written
    cluster-1/...

``manifest.json``::

    {"format": 1,
     "round": 3,                                  # the last one
     "model": "embedded:smollm2-135m-instruct",   # as configured
     "base_model_path": "...",                    # where it was found
     "licence": "apache-2.0",                     # of the base model, null if not known
     "rank": 16,                                  # of every adapter; alpha is the same
     "rank_policy": "deadline", "candidate_ranks": [4, 8, 16, 32], "deadline_seconds": 71.2,
     "training": {"local_steps": 4, ...},         # TrainingSettings
     "modules": {"architecture": "LlamaForCausalLM", "weights": 134515008, "share": 0.789,
                 "with_factors": [{"name": "model.layers.*.self_attn.q_proj", "count": 30,
                                   "weights": 9953280}, ...],
                 "without_factors": [{"name": "lm_head", ..., "reason": "..."}, ...],
                 "vllm": {"release": "0.32", "takes": true, "says": "..."}},   # or null
     "gguf": {"written": true, "says": "..."},       # with the reason where it is false
     "embedding": {"texts": 8, "noise": 0.0, ...},   # EmbeddingSettings
     "clustering": {"by": "embedding", ...},      # ClusteringSettings
     "clusters": [
        {"name": "cluster-0", "adapter": "cluster-0",      # folder, relative to the manifest
         "form": "chat",                                   # or "plain", see `Form`
         "members": ["1234"],                              # node ids, as text: they have 64 bits
         "centroid": [0.01, ...],                          # unit length
         "least_cosine": 0.88,                             # of a prompt of its task; or null
         "discarded_energy": 0.02,                         # in [0, 1], of the last mean
         "loss_before": 2.1, "loss_after": 0.9,            # held-out, nats per response token
         "best_round": 3,                                  # whose adapter this is, by validation
         "stopped_in": null}],                             # round in which training stopped
     "devices_keep": {"own": 5, "cluster": 1, "alone": 0}, # of those that were asked
     "devices": [
        {"node": "1234", "device": "phone", "label": "code", "cluster": "cluster-0",
         "identity": "partition:0",                        # empty if it has none
         "rank": 4,                                        # null where left out
         "reason": "rank 8 needs 90.1 s, the deadline is 71.2 s",
         "pace": 1.0,                                      # times slower than profiled
         "predicted_seconds": 71.2, "observed_seconds": 68.0,   # of the last round, or null
         "keeps": "own",                                   # see `KEEPS`; null if not asked
         "form": "chat", "examples": 102, "memory_bytes": 3221225472,
         "bandwidth": 250000.0,                            # bytes per second, null if not known
         "embedding": [0.01, ...]}]}                       # for the heatmap: cosines of these

``history.json``::

    {"format": 1,
     "rounds": [
        {"round": 0, "seconds": 12.3,
         "device_seconds": 68.0,                           # of the slowest device, its clock
         "clusters": {"cluster-0": {"asked": 2, "replies": 2, "kept": 0, "moved": true,
                                    "train_loss": 1.2,
                                    "held_out_loss": 0.9, "validation_loss": 0.9,
                                    "discarded_energy": 0.01,
                                    "discarded_by_layer": {"model.layers.0...": 0.01, ...}}},
         "devices": {"1234": {"cluster": "cluster-0", "rank": 4, "pace": 1.0,
                              "predicted_seconds": 71.2,
                              "observed_seconds": 68.0, "transfer_seconds": 7.1,
                              "bytes_down": 4897920, "bytes_up": 1224480, "num_examples": 102,
                              "steps": 9, "train_loss": 1.1,
                              "held_out_loss": 0.8, "held_out_tokens": 300,
                              "validation_loss": 0.8, "validation_tokens": 90, "keeps": "own"}},
         "refused": [{"node": "1234", "stage": "train", "reason": "...", "late": false}],
         "left_out": {"1234": "rank 4 needs ..."},
         "notes": ["node 1234: rank 16 -> rank 8, since ..."]}]}

Round 0 is the evaluation before training. Numbers that do not exist are null.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from floe_plugins import models
from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.adapters.gguf_lora import GGUF_FILE, GgufError, gguf_base, save_gguf
from flower_strategy.adapters.mean import truncate
from flower_strategy.adapters.modules import AdaptedModules
from flower_strategy.adapters.peft_folder import save_adapter
from flower_strategy.adapters.vllm_support import vllm_support
from flower_strategy.clusters import Cluster
from flower_strategy.messages import KEEPS
from flower_strategy.profile import Form
from flower_strategy.ranks.cost import RankPolicy
from flower_strategy.run_folder import FORMAT, HISTORY_FILE, MANIFEST_FILE
from flower_strategy.server.checkpoint import pack_round
from flower_strategy.server.state import RunState, Slowdown
from flower_strategy.settings import ClusteringSettings, EmbeddingSettings, TrainingSettings


def export_run(
    state: RunState,
    folder: Path,
    *,
    training: TrainingSettings,
    modules: AdaptedModules | None = None,
    rank: int,
    policy: RankPolicy,
    embedding: EmbeddingSettings,
    clustering: ClusteringSettings,
) -> dict[str, Any]:
    """Write a run's adapters, manifest and history into a folder that nobody reads yet.

    Parameters
    ----------
    state : RunState
        The run.
    folder : Path
        Where to write; made when absent. Files in it are written over.
    training : TrainingSettings
        The run's settings; names the base model.
    modules : AdaptedModules, optional
        Which modules of it carry factors; not known to a run that began with another adapter than
        `make_initial_arrays` makes.
    rank : int
        Rank of every adapter; one that vLLM accepts.
    policy : RankPolicy
        Named in the manifest.
    embedding, clustering : EmbeddingSettings, ClusteringSettings
        How devices were embedded, with which noise, and clustered.

    Returns
    -------
    dict[str, Any]
        The manifest.
    """
    base_model = models.resolve(training.model)
    folder.mkdir(parents=True, exist_ok=True)
    kept = state.kept_models()
    clusters = []
    adapters = {}
    for cluster in state.clusters:
        served = truncate(state.served(cluster.name), rank)
        best = state.best.get(cluster.name)
        save_adapter(
            served.adapter,
            folder / cluster.name,
            rank=rank,
            base_model=base_model,
            modules=modules,
        )
        adapters[folder / cluster.name / GGUF_FILE] = served.adapter
        energy = 1.0 - served.discarded_energy
        for record in reversed(state.history):
            if best is not None and record.round > best.round:
                continue
            outcome = record.clusters.get(cluster.name)
            if outcome is not None and outcome.moved:
                energy *= 1.0 - outcome.discarded_energy
                break
        losses = state.losses(cluster.name, until=None if best is None else best.round)
        clusters.append(
            {
                "name": cluster.name,
                "adapter": cluster.name,
                "form": _form(state, cluster),
                "members": [str(node) for node in cluster.members],
                "centroid": cluster.centroid.tolist(),
                "least_cosine": _least_cosine(state, cluster),
                "discarded_energy": 1.0 - energy,
                "loss_before": losses[0] if losses else None,
                "loss_after": losses[-1] if losses else None,
                "best_round": None if best is None else best.round,
                "stopped_in": None if best is None else best.stopped_in,
            }
        )
    manifest = {
        "format": FORMAT,
        "round": state.history[-1].round if state.history else None,
        "model": training.model,
        "base_model_path": base_model,
        "licence": models.licence(base_model),
        "rank": rank,
        "rank_policy": policy.name,
        "candidate_ranks": list(policy.candidates),
        "deadline_seconds": policy.deadline,
        "training": training.model_dump(mode="json"),
        "modules": modules and {**modules.to_json(), "vllm": vllm_support(modules).to_json()},
        "gguf": _write_gguf(adapters, rank=rank, base_model=base_model),
        "embedding": asdict(embedding),
        "clustering": asdict(clustering),
        "clusters": clusters,
        "devices_keep": {name: list(kept.values()).count(name) for name in KEEPS},
        "devices": [{**_device(state, node), "keeps": kept.get(node)} for node in state.profiles],
    }
    _write(folder / MANIFEST_FILE, manifest)
    _write(
        folder / HISTORY_FILE,
        {"format": FORMAT, "rounds": [pack_round(record) for record in state.history]},
    )
    return manifest


def _write_gguf(
    adapters: Mapping[Path, AdapterState], *, rank: int, base_model: str
) -> dict[str, Any]:
    """Write the adapters for llama.cpp, too; return what the manifest says of it."""
    try:
        base = gguf_base(base_model)
        for path, adapter in adapters.items():
            save_gguf(adapter, path, rank=rank, base=base)
    # What llama.cpp cannot load is no reason to lose what PEFT and vLLM can.
    except GgufError as error:
        return {"written": False, "says": f"There are no GGUF adapters for llama.cpp: {error}"}
    return {
        "written": True,
        "says": f"llama.cpp loads the {GGUF_FILE} beside each on a base of {base.architecture}.",
    }


def _form(state: RunState, cluster: Cluster) -> Form:
    """Return the form that most of a cluster's examples are trained in."""
    counts: Counter[Form] = Counter()
    for node in cluster.members:
        counts[state.profiles[node].form] += state.profiles[node].num_examples
    return counts.most_common(1)[0][0]


def _least_cosine(state: RunState, cluster: Cluster) -> float | None:
    """Return what the device in the middle says: one that lies moves it little."""
    known = [state.profiles[node].least_cosine for node in cluster.members]
    told = [cosine for cosine in known if cosine > -1]
    return median(told) if 2 * len(told) > len(known) else None


def _device(state: RunState, node: int) -> dict[str, Any]:
    profile, decision = state.profiles[node], state.decisions[node]
    observed = [
        record.devices[node].observed_seconds
        for record in state.history
        if node in record.devices and record.devices[node].observed_seconds is not None
    ]
    return {
        "node": str(node),
        "device": profile.device,
        "label": profile.label,
        "identity": profile.identity,
        "cluster": state.cluster_of(node).name,
        "rank": decision.rank,
        "reason": decision.reason,
        "pace": state.slowdowns.get(node, Slowdown()).factor,
        "predicted_seconds": decision.predicted_seconds,
        "observed_seconds": observed[-1] if observed else None,
        "form": profile.form,
        "examples": profile.num_examples,
        "memory_bytes": profile.memory_bytes,
        "bandwidth": profile.bandwidth if math.isfinite(profile.bandwidth) else None,
        "embedding": profile.embedding.tolist(),
    }


def _write(path: Path, content: Mapping[str, Any]) -> None:
    entries = (f"{json.dumps(key)}: {_written(value)}" for key, value in content.items())
    path.write_text("{\n" + ",\n".join(entries) + "\n}\n", encoding="utf-8")


def _written(value: Any) -> str:
    """Return a value as JSON; a list of objects has one line per object.

    With ``indent``, json falls back to its Python encoder, which takes ten times as long as the C
    encoder for 10,000 devices.
    """
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return "[\n" + ",\n".join(map(_written, value)) + "\n]"
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    """Return a value with null for numbers that JSON cannot express."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
