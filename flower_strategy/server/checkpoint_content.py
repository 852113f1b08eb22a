"""A run's state as JSON values and named arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_strategy.adapters.adapter import AdapterState, LoraFactors
from flower_strategy.clusters import Cluster
from flower_strategy.device.profile import DeviceProfile
from flower_strategy.ranks.cost import RankDecision
from flower_strategy.server.records import ClusterRound, DeviceRound, Refusal, RoundRecord
from flower_strategy.server.slowdown import Pace
from flower_strategy.server.state import RunState

Arrays = dict[str, NDArray[np.float32]]


def pack(state: RunState) -> tuple[dict[str, Any], Arrays]:
    """Return a state's values for JSON, and its arrays by name.

    Node ids are written as text, since JSON's numbers do not hold 64 bits everywhere.
    """
    arrays: Arrays = {}
    _pack_adapter(arrays, "initial", state.initial)
    for name, bank in state.banks.items():
        _pack_adapter(arrays, f"bank/{name}", bank)
    for name, velocity in state.velocities.items():
        _pack_adapter(arrays, f"velocity/{name}", velocity)
    for node, profile in state.profiles.items():
        arrays[f"embedding/{node}"] = profile.embedding
    for node, sketch in state.sketches.items():
        arrays[f"sketch/{node}"] = sketch
    for cluster in state.clusters:
        arrays[f"centroid/{cluster.name}"] = cluster.centroid
    content = {
        "profiles": {
            str(node): {
                field.name: getattr(profile, field.name)
                for field in fields(profile)
                if field.name != "embedding"
            }
            for node, profile in state.profiles.items()
        },
        "left_since": {str(node): number for node, number in state.left_since.items()},
        "decisions": {str(node): asdict(decision) for node, decision in state.decisions.items()},
        "paces": {str(node): asdict(pace) for node, pace in state.paces.items()},
        "sketches": [str(node) for node in state.sketches],
        "clusters": [
            {"name": cluster.name, "members": [str(node) for node in cluster.members]}
            for cluster in state.clusters
        ],
        "clusters_made": state.clusters_made,
        "velocities": list(state.velocities),
        "split_by_adapter": state.split_by_adapter,
        "history": [pack_round(record) for record in state.history],
    }
    return content, {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def unpack(content: Mapping[str, Any], arrays: Mapping[str, NDArray[np.float32]]) -> RunState:
    """Return the state that `pack` took apart.

    Raises
    ------
    KeyError, TypeError, ValueError
        Something is missing or of the wrong kind.
    """
    try:
        return RunState(
            initial=_unpack_adapter(arrays, "initial"),
            profiles={
                int(node): _profile(values, arrays[f"embedding/{node}"])
                for node, values in content["profiles"].items()
            },
            left_since={int(node): number for node, number in content["left_since"].items()},
            decisions={
                int(node): RankDecision(**values) for node, values in content["decisions"].items()
            },
            paces={
                int(node): Pace(values["factor"], tuple(values["outside"]))
                for node, values in content["paces"].items()
            },
            sketches={int(node): arrays[f"sketch/{node}"] for node in content["sketches"]},
            clusters=[
                Cluster(
                    cluster["name"],
                    arrays[f"centroid/{cluster['name']}"],
                    tuple(sorted(int(node) for node in cluster["members"])),
                )
                for cluster in content["clusters"]
            ],
            clusters_made=content["clusters_made"],
            banks={
                cluster["name"]: _unpack_adapter(arrays, f"bank/{cluster['name']}")
                for cluster in content["clusters"]
            },
            velocities={
                name: _unpack_adapter(arrays, f"velocity/{name}") for name in content["velocities"]
            },
            split_by_adapter=content["split_by_adapter"],
            history=[unpack_round(values) for values in content["history"]],
        )
    except TypeError as error:
        raise ValueError(str(error)) from error


def pack_round(record: RoundRecord) -> dict[str, Any]:
    """Return a round's values for JSON; also what ``history.json`` holds."""
    return {
        "round": record.round,
        "seconds": record.seconds,
        "device_seconds": record.device_seconds,
        "clusters": {name: asdict(outcome) for name, outcome in record.clusters.items()},
        "devices": {str(node): asdict(device) for node, device in record.devices.items()},
        "refused": [{**asdict(refusal), "node": str(refusal.node)} for refusal in record.refused],
        "left_out": {str(node): reason for node, reason in record.left_out.items()},
        "notes": record.notes,
    }


def unpack_round(values: Mapping[str, Any]) -> RoundRecord:
    """Return the round that `pack_round` took apart."""
    return RoundRecord(
        round=values["round"],
        seconds=values["seconds"],
        clusters={name: ClusterRound(**outcome) for name, outcome in values["clusters"].items()},
        devices={int(node): DeviceRound(**device) for node, device in values["devices"].items()},
        refused=[
            Refusal(**{**refusal, "node": int(refusal["node"])}) for refusal in values["refused"]
        ],
        left_out={int(node): reason for node, reason in values["left_out"].items()},
        notes=list(values["notes"]),
    )


def _profile(values: Mapping[str, Any], embedding: NDArray[np.float32]) -> DeviceProfile:
    pairs = {name: tuple(values[name]) for name in ("step_ranks", "step_seconds")}
    return DeviceProfile(**{**values, **pairs}, embedding=embedding)


def _pack_adapter(arrays: Arrays, name: str, adapter: AdapterState) -> None:
    for layer, factors in adapter.with_scaling(1.0).layers.items():
        arrays[f"{name}/{layer}/a"], arrays[f"{name}/{layer}/b"] = factors.a, factors.b


def _unpack_adapter(arrays: Mapping[str, NDArray[np.float32]], name: str) -> AdapterState:
    layers = {}
    for key, a in arrays.items():
        if key.startswith(f"{name}/") and key.endswith("/a"):
            layer = key[len(name) + 1 : -2]
            layers[layer] = LoraFactors(b=arrays[f"{name}/{layer}/b"], a=a)
    if not layers:
        raise KeyError(name)
    return AdapterState(layers)
