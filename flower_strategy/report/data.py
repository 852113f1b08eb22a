"""The run as the report shows it, and the figures' data, which ``--json`` also prints.

Reading tolerates missing values: every number that is missing, null or malformed is None from here
on, and every text is a string.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator

from floe_plugins.checks import is_number
from flower_strategy.device_time import TimeSpent, summed, time_spent
from flower_strategy.run_folder import load_history, load_manifest, result_folder

MOST_DEVICES = 60
"""Most devices that a heatmap shows; of more, it shows an even selection in cluster order."""

TRAINED, LEFT_OUT, REFUSED, NOT_ASKED = "trained", "left out", "refused", "not asked"

_SHORT = 4
_BLOCK = re.compile(r"\.(\d+)\.")


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    return float(value) if is_number(value) else None


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _of(kind: type) -> Callable[[Any], Any]:
    return lambda value: value if isinstance(value, kind) else kind()


def _only(known: Callable[[Any], bool]) -> BeforeValidator:
    """Return a validator that keeps the entries of a mapping whose values are `known`."""
    return BeforeValidator(lambda v: {k: one for k, one in _of(dict)(v).items() if known(one)})


Number = Annotated[float | None, BeforeValidator(number)]
Integer = Annotated[int | None, BeforeValidator(lambda one: int(one) if is_number(one) else None)]
Amount = Annotated[float, BeforeValidator(lambda one: number(one) or 0.0)]
Flag = Annotated[bool, BeforeValidator(lambda one: one is True)]
Text = Annotated[str, BeforeValidator(_text)]
Objects = _only(lambda one: isinstance(one, dict))


class ShownDevice(BaseModel, frozen=True):
    """One device at the end of the run; see `flower_strategy.server.export` for the fields."""

    node: Text = ""
    short: str
    device: Annotated[str, BeforeValidator(lambda value: _text(value) or "device")] = "device"
    label: Text = ""
    cluster: Text = ""
    rank: Integer = None
    reason: Text = ""
    embedding: Annotated[tuple[Number, ...], BeforeValidator(_of(list))] = ()

    @property
    def title(self) -> str:
        """The device's title in tooltips: full id, class, task and cluster."""
        kind = f"{self.device} with {self.label}" if self.label else self.device
        return f"node {self.node} ({kind}), {self.cluster}"


class ShownDeviceRound(BaseModel, frozen=True):
    """One device in one round."""

    rank: Integer = None
    predicted_seconds: Number = None
    observed_seconds: Number = None
    transfer_seconds: Number = None
    bytes_down: Amount = 0.0
    bytes_up: Amount = 0.0
    held_out_loss: Number = None
    held_out_tokens: Amount = 0.0


class ShownClusterRound(BaseModel, frozen=True):
    """One cluster in one round."""

    moved: Flag = False
    train_loss: Number = None
    held_out_loss: Number = None
    discarded_energy: Number = None
    discarded_by_layer: Annotated[dict[str, float], _only(is_number)] = {}

    @property
    def lost(self) -> float | None:
        """The discarded energy; None if the adapter did not move."""
        return self.discarded_energy if self.moved else None


class ShownRound(BaseModel, frozen=True):
    """One round, with its unused replies; round 0 is the evaluation before training."""

    number: int
    seconds: Number = None
    device_seconds: Number = None
    clusters: Annotated[dict[str, ShownClusterRound], Objects] = {}
    devices: Annotated[dict[str, ShownDeviceRound], Objects] = {}
    refused: list[dict[str, Any]]
    left_out: Annotated[dict[str, Text], BeforeValidator(_of(dict))] = {}
    notes: Annotated[list[Text], BeforeValidator(_of(list))] = []


class ShownRun(BaseModel, frozen=True):
    """A run: its manifest as read, its devices in the order of their clusters, and its rounds.

    The clusters are those at the end, in the manifest's order, then those only in the history.
    """

    manifest: dict[str, Any]
    clusters: list[str]
    devices: list[ShownDevice]
    rounds: list[ShownRound]
    by_node: dict[str, ShownDevice]

    def short(self, node: str) -> str:
        """Return a node's id, shortened for labels."""
        return self.by_node[node].short if node in self.by_node else f"…{node[-_SHORT:]}"


def read_run(folder: Path | str) -> ShownRun:
    """Read a run's folder; raise `RunFolderError` if it holds no run."""
    folder = result_folder(folder)
    manifest, history = load_manifest(folder), load_history(folder)
    rounds = []
    for index, entry in enumerate(history["rounds"]):
        position = int(entry["round"]) if is_number(entry.get("round")) else index
        refused = [
            {"round": position} | {key: _text(one.get(key)) for key in ("node", "stage", "reason")}
            for one in _of(list)(entry.get("refused"))
            if isinstance(one, dict)
        ]
        known = {"number": position, "refused": refused}
        rounds.append(ShownRound.model_validate(entry | known))
    final = [_text(entry.get("name")) for entry in manifest["clusters"]]
    past = {name for entry in rounds for name in entry.clusters}
    place = {name: index for index, name in enumerate([*final, *sorted(past - set(final))])}
    nodes = [_text(entry.get("node")) for entry in manifest["devices"]]
    most = max(map(len, nodes), default=_SHORT)
    # As many trailing digits as tell the nodes apart.
    apart = (n for n in range(_SHORT, most) if len({node[-n:] for node in nodes}) == len({*nodes}))
    digits = next(apart, most)
    short = [{"short": one if len(one) <= digits else f"…{one[-digits:]}"} for one in nodes]
    entries = zip(manifest["devices"], short, strict=True)
    devices = [ShownDevice.model_validate(entry | name) for entry, name in entries]
    devices.sort(key=lambda d: (place.get(d.cluster, len(place)), d.cluster, d.device, d.node))
    return ShownRun(
        manifest=manifest,
        clusters=list(place),
        devices=devices,
        rounds=sorted(rounds, key=lambda entry: entry.number),
        by_node={device.node: device for device in devices},
    )


def figure_data(run: ShownRun) -> dict[str, dict[str, Any]]:
    """Return figure name -> its data; rounds without a value have None."""
    rounds = [entry.number for entry in run.rounds]
    held_out, train, energy = (
        {
            name: [getattr(one.clusters.get(name), field, None) for one in run.rounds]
            for name in run.clusters
        }
        for field in ("held_out_loss", "train_loss", "lost")
    )
    losses = {name: {"held_out": held_out[name], "train": train[name]} for name in run.clusters}
    return {
        "loss": {"rounds": rounds, "clusters": losses},
        "ranks": _ranks(run),
        "latency": _latency(run),
        "time": _time(run),
        "embedding": _embedding(run),
        "communication": _communication(run, rounds),
        "energy": {"rounds": rounds, "clusters": energy},
        "layers": {"clusters": _layers(run)},
    }


def _ranks(run: ShownRun) -> dict[str, Any]:
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
    """Return what a device did in a round; `told` is whether the run records who is left out."""
    done = entry.devices.get(device.node)
    for refusal in entry.refused:
        if refusal["node"] == device.node and refusal["stage"] == "train":
            return {"state": REFUSED, "rank": done and done.rank, "reason": refusal["reason"]}
    if done is not None and done.rank is not None:
        return {"state": TRAINED, "rank": done.rank}
    if device.node in entry.left_out:
        return {"state": LEFT_OUT, "reason": entry.left_out[device.node]}
    if device.rank is None and not told:
        return {"state": LEFT_OUT, "reason": device.reason}
    return {"state": NOT_ASKED}


def _latency(run: ShownRun) -> dict[str, Any]:
    """Return the observed and predicted seconds of each device class at each rank.

    Values are means over devices and rounds, with the observed minimum and maximum.
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
        point = {
            "rank": rank,
            "count": len(observed),
            "observed": sum(observed) / len(observed) if observed else None,
            "least": min(observed, default=None),
            "greatest": max(observed, default=None),
            "predicted": sum(predicted) / len(predicted) if predicted else None,
        }
        if observed or predicted:
            classes[kind].append(point)
    return {
        "ranks": sorted({point["rank"] for points in classes.values() for point in points}),
        "deadline_seconds": number(run.manifest.get("deadline_seconds")),
        "classes": classes,
    }


def _time(run: ShownRun) -> dict[str, Any]:
    """Return the seconds of training, transport and idle of each class and each device.

    They are sums over the rounds in which a device trained; ``rounds`` counts them.
    """
    rounds = [
        time_spent(
            (node, done.observed_seconds, done.transfer_seconds)
            for node, done in entry.devices.items()
            if node in run.by_node
        )
        for entry in run.rounds
    ]
    spent, counts = summed(rounds), Counter(node for entry in rounds for node in entry)
    devices = [one for one in run.devices if one.node in spent]
    classes: dict[str, dict[str, Any]] = {}
    for kind in sorted({one.device for one in devices}):
        nodes = [one.node for one in devices if one.device == kind]
        whole = sum((spent[node] for node in nodes), TimeSpent())
        count = sum(counts[node] for node in nodes)
        classes[kind] = {"devices": len(nodes), "rounds": count, **_parts(whole)}
    return {
        "classes": classes,
        "devices": [
            {**_named(one), "rounds": counts[one.node], **_parts(spent[one.node])}
            for one in devices
        ],
    }


def _parts(spent: TimeSpent) -> dict[str, float]:
    """Return seconds by what they were spent on, and the share that was idle."""
    return {**asdict(spent), "idle_share": spent.shares()[2]}


def _embedding(run: ShownRun) -> dict[str, Any]:
    """Return the cosines of the devices' task embeddings, devices ordered by cluster."""
    known = [one for one in run.devices if one.embedding and None not in one.embedding]
    lengths = [len(device.embedding) for device in known]
    usual = max(set(lengths), key=lengths.count, default=0)
    shown = _picked([device for device in known if len(device.embedding) == usual])
    vectors = np.array([one.embedding for one in shown], dtype=np.float64).reshape(-1, usual or 1)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return {
        "devices": [_named(device) for device in shown],
        "of": len(run.devices),
        "cosine": np.round(np.clip(vectors @ vectors.T, -1.0, 1.0), 4).tolist(),
    }


def _communication(run: ShownRun, rounds: Sequence[int]) -> dict[str, Any]:
    """Return the bytes of adapters that went down and up in each round, and their sum so far."""
    down = [sum(done.bytes_down for done in entry.devices.values()) for entry in run.rounds]
    up = [sum(done.bytes_up for done in entry.devices.values()) for entry in run.rounds]
    total = np.cumsum(np.add(down, up)).tolist()
    return {"rounds": rounds, "down": down, "up": up, "total": total}


def _layers(run: ShownRun) -> dict[str, Any]:
    """Return cluster -> the discarded energy of each layer in the last round that has it."""
    found: dict[str, Any] = {}
    for entry in run.rounds:
        for name in run.clusters:
            if name in entry.clusters and (shares := entry.clusters[name].discarded_by_layer):
                found[name] = {"round": entry.number, "layers": []}
                for layer, share in shares.items():
                    # A name without a number in it has no block.
                    block = _BLOCK.search(layer)
                    place = {
                        "module": layer.rpartition(".")[2] if block else layer,
                        "block": int(block[1]) if block else None,
                    }
                    found[name]["layers"].append(
                        {"layer": layer, **place, "discarded_energy": share}
                    )
    return {name: found[name] for name in run.clusters if name in found}


def _named(device: ShownDevice) -> dict[str, str]:
    names = ("node", "short", "device", "cluster", "title")
    return {name: getattr(device, name) for name in names}


def _picked(devices: Sequence[ShownDevice]) -> list[ShownDevice]:
    """Return every n-th device if there are too many; they are ordered by cluster."""
    count = min(len(devices), MOST_DEVICES)
    return [devices[index] for index in np.linspace(0, len(devices) - 1, count).round().astype(int)]
