"""What the report shows of a run, read once and tolerant of what is absent.

Every number that is missing, null, or no number is None from here on; every text is a string.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from floe_plugins.checks import is_number
from flower_strategy.run_folder import load_history, load_manifest

_SHORT = 4


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device at the end of the run; see `flower_strategy.server.export` for the fields."""

    node: str
    short: str
    kind: str
    label: str
    cluster: str
    rank: int | None
    reason: str
    embedding: tuple[float, ...]

    @property
    def title(self) -> str:
        """What a tooltip calls the device: the full id, class, task and cluster."""
        kind = f"{self.kind} with {self.label}" if self.label else self.kind
        return f"node {self.node} ({kind}), {self.cluster}"


@dataclass(frozen=True, kw_only=True)
class DeviceRound:
    """One device in one round."""

    rank: int | None
    predicted_seconds: float | None
    observed_seconds: float | None
    bytes_down: float
    bytes_up: float
    held_out_loss: float | None
    held_out_tokens: float


@dataclass(frozen=True, kw_only=True)
class ClusterRound:
    """One cluster in one round."""

    moved: bool
    train_loss: float | None
    held_out_loss: float | None
    discarded_energy: float | None
    discarded_by_layer: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A reply that was not used."""

    round: int
    node: str
    stage: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round; 0 is the evaluation before training."""

    number: int
    seconds: float | None
    device_seconds: float | None
    clusters: Mapping[str, ClusterRound]
    devices: Mapping[str, DeviceRound]
    refused: Sequence[Refusal]
    left_out: Mapping[str, str]
    notes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run: its devices in the order of their clusters, and its rounds.

    Attributes
    ----------
    manifest : Mapping[str, Any]
        As read.
    clusters : Sequence[str]
        Names of the clusters at the end, in the manifest's order, and after them those that only
        the history knows.
    """

    manifest: Mapping[str, Any]
    clusters: Sequence[str]
    devices: Sequence[Device]
    rounds: Sequence[Round]
    by_node: Mapping[str, Device] = field(default_factory=dict)

    def short(self, node: str) -> str:
        """Return a node's id as labels show it."""
        return self.by_node[node].short if node in self.by_node else f"…{node[-_SHORT:]}"


def read_run(folder: Path | str) -> Run:
    """Read a run's folder.

    Raises
    ------
    flower_strategy.run_folder.RunFolderError
        The folder holds no run that can be read.
    """
    manifest, history = load_manifest(folder), load_history(folder)
    rounds = sorted(
        (_round(index, entry) for index, entry in enumerate(history["rounds"])),
        key=lambda entry: entry.number,
    )
    final = [_text(entry.get("name")) for entry in manifest["clusters"]]
    past = {name for entry in rounds for name in entry.clusters}
    clusters = [*final, *sorted(past - set(final))]
    place = {name: index for index, name in enumerate(clusters)}
    nodes = [_text(entry.get("node")) for entry in manifest["devices"]]
    digits = _digits(nodes)
    devices = sorted(
        (
            Device(
                node=node,
                short=node if len(node) <= digits else f"…{node[-digits:]}",
                kind=_text(entry.get("device")) or "device",
                label=_text(entry.get("label")),
                cluster=_text(entry.get("cluster")),
                rank=_integer(entry.get("rank")),
                reason=_text(entry.get("reason")),
                embedding=_numbers(entry.get("embedding")),
            )
            for node, entry in zip(nodes, manifest["devices"], strict=True)
        ),
        key=lambda device: (
            place.get(device.cluster, len(place)),
            device.cluster,
            device.kind,
            device.node,
        ),
    )
    return Run(
        manifest=manifest,
        clusters=clusters,
        devices=devices,
        rounds=rounds,
        by_node={device.node: device for device in devices},
    )


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    return float(value) if is_number(value) else None


def _round(index: int, entry: Mapping[str, Any]) -> Round:
    count = _integer(entry.get("round"))
    position = index if count is None else count
    return Round(
        number=position,
        seconds=number(entry.get("seconds")),
        device_seconds=number(entry.get("device_seconds")),
        clusters={
            name: ClusterRound(
                moved=cluster.get("moved") is True,
                train_loss=number(cluster.get("train_loss")),
                held_out_loss=number(cluster.get("held_out_loss")),
                discarded_energy=number(cluster.get("discarded_energy")),
                discarded_by_layer={
                    layer: share
                    for layer, value in _mapping(cluster.get("discarded_by_layer")).items()
                    if (share := number(value)) is not None
                },
            )
            for name, cluster in _objects(entry.get("clusters")).items()
        },
        devices={
            node: DeviceRound(
                rank=_integer(device.get("rank")),
                predicted_seconds=number(device.get("predicted_seconds")),
                observed_seconds=number(device.get("observed_seconds")),
                bytes_down=number(device.get("bytes_down")) or 0.0,
                bytes_up=number(device.get("bytes_up")) or 0.0,
                held_out_loss=number(device.get("held_out_loss")),
                held_out_tokens=number(device.get("held_out_tokens")) or 0.0,
            )
            for node, device in _objects(entry.get("devices")).items()
        },
        refused=[
            Refusal(
                round=position,
                node=_text(refusal.get("node")),
                stage=_text(refusal.get("stage")),
                reason=_text(refusal.get("reason")),
            )
            for refusal in _list(entry.get("refused"))
            if isinstance(refusal, dict)
        ],
        left_out={node: _text(reason) for node, reason in _mapping(entry.get("left_out")).items()},
        notes=[_text(note) for note in _list(entry.get("notes"))],
    )


def _digits(nodes: Sequence[str]) -> int:
    """Return how many last digits tell the nodes apart, four or more."""
    most = max(map(len, nodes), default=_SHORT)
    for digits in range(_SHORT, most):
        if len({node[-digits:] for node in nodes}) == len(set(nodes)):
            return digits
    return max(most, _SHORT)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _integer(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def _numbers(value: Any) -> tuple[float, ...]:
    found = [number(entry) for entry in _list(value)]
    return tuple(entry for entry in found if entry is not None) if None not in found else ()


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> dict[str, dict[str, Any]]:
    return {key: entry for key, entry in _mapping(value).items() if isinstance(entry, dict)}
