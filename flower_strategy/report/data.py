"""The figures' data, as plain values: what ``--json`` prints and what the charts draw."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flower_strategy.report.run import ShownDevice, ShownDeviceRound, ShownRound, ShownRun, number

MOST_DEVICES = 120
"""Most devices that a heatmap shows; of more, evenly many of each cluster are picked."""

TRAINED, LEFT_OUT, REFUSED, NOT_ASKED = "trained", "left out", "refused", "not asked"

_BLOCK = re.compile(r"\.(\d+)\.")


def figure_data(run: ShownRun) -> dict[str, dict[str, Any]]:
    """Return figure name -> its data."""
    return {
        "loss": loss(run),
        "ranks": ranks(run),
        "latency": latency(run),
        "embedding": embedding(run),
        "communication": communication(run),
        "energy": energy(run),
        "layers": layers(run),
    }


def loss(run: ShownRun) -> dict[str, Any]:
    """Return the held-out and training losses of each cluster, one value or None per round."""
    return {
        "rounds": [entry.number for entry in run.rounds],
        "clusters": {
            name: {
                "held_out": _of_cluster(run, name, lambda outcome: outcome.held_out_loss),
                "train": _of_cluster(run, name, lambda outcome: outcome.train_loss),
            }
            for name in run.clusters
        },
    }


def ranks(run: ShownRun) -> dict[str, Any]:
    """Return rank and state of each device and training round, devices ordered by cluster."""
    shown = _picked(run.devices)
    rounds = [entry for entry in run.rounds if entry.number > 0]
    told = any(entry.left_out for entry in rounds)
    return {
        "rounds": [entry.number for entry in rounds],
        "devices": [_named(device) for device in shown],
        "of": len(run.devices),
        "cells": [[_state(device, entry, told) for entry in rounds] for device in shown],
    }


def _state(device: ShownDevice, entry: ShownRound, told: bool) -> dict[str, Any]:
    """Return what a device did in a round; `told` is whether the run notes who is left out."""
    done = entry.devices.get(device.node)
    for refusal in entry.refused:
        if refusal.node == device.node and refusal.stage == "train":
            return {"state": REFUSED, "rank": done and done.rank, "reason": refusal.reason}
    if done is not None and done.rank is not None:
        return {"state": TRAINED, "rank": done.rank}
    if device.node in entry.left_out:
        return {"state": LEFT_OUT, "reason": entry.left_out[device.node]}
    if device.rank is None and not told:
        return {"state": LEFT_OUT, "reason": device.reason}
    return {"state": NOT_ASKED}


def latency(run: ShownRun) -> dict[str, Any]:
    """Return the observed and predicted seconds of each device class at each rank.

    Values are means over devices and rounds, with the least and the greatest that was observed.
    """
    found: dict[tuple[str, int], list[ShownDeviceRound]] = defaultdict(list)
    for entry in run.rounds:
        for node, done in entry.devices.items():
            if done.rank is not None and node in run.by_node:
                found[run.by_node[node].device, done.rank].append(done)
    classes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (kind, rank), entries in sorted(found.items()):
        observed = [one.observed_seconds for one in entries if one.observed_seconds is not None]
        predicted = [one.predicted_seconds for one in entries if one.predicted_seconds is not None]
        if observed or predicted:
            classes[kind].append(
                {
                    "rank": rank,
                    "count": len(observed),
                    "observed": _mean(observed),
                    "least": min(observed, default=None),
                    "greatest": max(observed, default=None),
                    "predicted": _mean(predicted),
                }
            )
    return {
        "ranks": sorted({point["rank"] for points in classes.values() for point in points}),
        "deadline_seconds": number(run.manifest.get("deadline_seconds")),
        "classes": classes,
    }


def embedding(run: ShownRun) -> dict[str, Any]:
    """Return the cosines of the devices' task embeddings, devices ordered by cluster."""
    lengths = [len(device.embedding) for device in run.devices if device.embedding]
    usual = max(set(lengths), key=lengths.count, default=0)
    known = [device for device in run.devices if usual and len(device.embedding) == usual]
    shown = _picked(known)
    cosine: list[list[float]] = []
    if shown:
        vectors = np.array([device.embedding for device in shown], dtype=np.float64)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.maximum(norms, 1e-12)
        cosine = np.round(np.clip(vectors @ vectors.T, -1.0, 1.0), 4).tolist()
    return {
        "devices": [_named(device) for device in shown],
        "of": len(run.devices),
        "cosine": cosine,
    }


def communication(run: ShownRun) -> dict[str, Any]:
    """Return the bytes of adapters that went down and up in each round, and their sum so far."""
    down = [sum(done.bytes_down for done in entry.devices.values()) for entry in run.rounds]
    up = [sum(done.bytes_up for done in entry.devices.values()) for entry in run.rounds]
    return {
        "rounds": [entry.number for entry in run.rounds],
        "down": down,
        "up": up,
        "total": np.cumsum(np.add(down, up)).tolist(),
    }


def energy(run: ShownRun) -> dict[str, Any]:
    """Return the discarded energy of each cluster, None in rounds in which it did not move."""
    return {
        "rounds": [entry.number for entry in run.rounds],
        "clusters": {
            name: _of_cluster(
                run, name, lambda outcome: outcome.discarded_energy if outcome.moved else None
            )
            for name in run.clusters
        },
    }


def layers(run: ShownRun) -> dict[str, Any]:
    """Return the discarded energy of each layer in the last round that has it.

    Layers are laid out as module by block; a name without a number in it has block None.
    """
    clusters: dict[str, Any] = {}
    for name in run.clusters:
        for entry in reversed(run.rounds):
            outcome = entry.clusters.get(name)
            if outcome is not None and outcome.discarded_by_layer:
                clusters[name] = {
                    "round": entry.number,
                    "layers": [
                        {"layer": layer, **_position(layer), "discarded_energy": share}
                        for layer, share in outcome.discarded_by_layer.items()
                    ],
                }
                break
    return {"clusters": clusters}


def _position(layer: str) -> dict[str, Any]:
    block = _BLOCK.search(layer)
    if block is None:
        return {"module": layer, "block": None}
    return {"module": layer.rpartition(".")[2], "block": int(block[1])}


def _of_cluster(
    run: ShownRun, name: str, value: Callable[[Any], float | None]
) -> list[float | None]:
    return [value(entry.clusters[name]) if name in entry.clusters else None for entry in run.rounds]


def _named(device: ShownDevice) -> dict[str, str]:
    return {
        "node": device.node,
        "short": device.short,
        "device": device.device,
        "cluster": device.cluster,
        "title": device.title,
    }


def _picked(devices: Sequence[ShownDevice]) -> list[ShownDevice]:
    """Return every n-th device where there are too many; their order is by cluster."""
    if len(devices) <= MOST_DEVICES:
        return list(devices)
    chosen = np.linspace(0, len(devices) - 1, MOST_DEVICES).round().astype(int)
    return [devices[index] for index in chosen]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
