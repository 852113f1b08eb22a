"""What the report shows of a run, read once and tolerant of what is absent.

Every number that is missing, null, or no number is None from here on; every text is a string.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from floe_plugins.config import is_number
from flower_strategy.run_folder import load_history, load_manifest

_SHORT = 4
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class ShownDevice:
    """One device at the end of the run; see `flower_strategy.server.export` for the fields."""

    node: str
    short: str
    device: str
    label: str
    cluster: str
    rank: int | None
    reason: str
    embedding: tuple[float, ...]

    @property
    def title(self) -> str:
        """What a tooltip calls the device: the full id, class, task and cluster."""
        kind = f"{self.device} with {self.label}" if self.label else self.device
        return f"node {self.node} ({kind}), {self.cluster}"


@dataclass(frozen=True, kw_only=True)
class ShownDeviceRound:
    """One device in one round."""

    rank: int | None
    predicted_seconds: float | None
    observed_seconds: float | None
    bytes_down: float
    bytes_up: float
    held_out_loss: float | None
    held_out_tokens: float


@dataclass(frozen=True, kw_only=True)
class ShownClusterRound:
    """One cluster in one round."""

    moved: bool
    train_loss: float | None
    held_out_loss: float | None
    discarded_energy: float | None
    discarded_by_layer: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ShownRefusal:
    """A reply that was not used."""

    round: int
    node: str
    stage: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ShownRound:
    """One round; 0 is the evaluation before training."""

    number: int
    seconds: float | None
    device_seconds: float | None
    clusters: Mapping[str, ShownClusterRound]
    devices: Mapping[str, ShownDeviceRound]
    refused: Sequence[ShownRefusal]
    left_out: Mapping[str, str]
    notes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class ShownRun:
    """A run: its manifest as read, its devices in the order of their clusters, and its rounds.

    The clusters are those at the end, in the manifest's order, and after them those that only the
    history knows.
    """

    manifest: Mapping[str, Any]
    clusters: Sequence[str]
    devices: Sequence[ShownDevice]
    rounds: Sequence[ShownRound]
    by_node: Mapping[str, ShownDevice]

    def short(self, node: str) -> str:
        """Return a node's id as labels show it."""
        return self.by_node[node].short if node in self.by_node else f"…{node[-_SHORT:]}"


def read_run(folder: Path | str) -> ShownRun:
    """Read a run's folder.

    Raises
    ------
    flower_strategy.run_folder.RunFolderError
        The folder holds no run that can be read.
    """
    manifest, history = load_manifest(folder), load_history(folder)
    rounds = [_round(index, entry) for index, entry in enumerate(history["rounds"])]
    final = [_text(entry.get("name")) for entry in manifest["clusters"]]
    past = {name for entry in rounds for name in entry.clusters}
    clusters = [*final, *sorted(past - set(final))]
    digits = _digits([_text(entry.get("node")) for entry in manifest["devices"]])
    devices = []
    for entry in manifest["devices"]:
        node = _text(entry.get("node"))
        short = node if len(node) <= digits else f"…{node[-digits:]}"
        kind = _text(entry.get("device")) or "device"
        devices.append(_record(ShownDevice, entry, short=short, device=kind))
    place = {name: index for index, name in enumerate(clusters)}
    devices.sort(
        key=lambda one: (place.get(one.cluster, len(place)), one.cluster, one.device, one.node)
    )
    return ShownRun(
        manifest=manifest,
        clusters=clusters,
        devices=devices,
        rounds=sorted(rounds, key=lambda entry: entry.number),
        by_node={device.node: device for device in devices},
    )


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    return float(value) if is_number(value) else None


def _round(index: int, entry: Mapping[str, Any]) -> ShownRound:
    position = index if (count := _integer(entry.get("round"))) is None else count
    clusters, devices = _objects(entry.get("clusters")), _objects(entry.get("devices"))
    return _record(
        ShownRound,
        entry,
        number=position,
        clusters={name: _record(ShownClusterRound, one) for name, one in clusters.items()},
        devices={node: _record(ShownDeviceRound, one) for node, one in devices.items()},
        refused=[
            _record(ShownRefusal, one, round=position)
            for one in _list(entry.get("refused"))
            if isinstance(one, dict)
        ],
    )


def _record(kind: type[_T], entry: Mapping[str, Any], **known: Any) -> _T:
    """Return an entry as one of the classes above: each field as its annotation says."""
    found = {
        name: _READ[annotation](entry.get(name))
        for name, annotation in kind.__annotations__.items()
        if name not in known
    }
    return kind(**found, **known)


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
    return None if (found := number(value)) is None else int(found)


def _numbers(value: Any) -> tuple[float, ...]:
    found = [number(entry) for entry in _list(value)]
    return tuple(entry for entry in found if entry is not None) if None not in found else ()


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> dict[str, dict[str, Any]]:
    return {key: entry for key, entry in _mapping(value).items() if isinstance(entry, dict)}


def _shares(value: Any) -> dict[str, float]:
    shares = {key: number(entry) for key, entry in _mapping(value).items()}
    return {key: share for key, share in shares.items() if share is not None}


_READ: Mapping[str, Callable[[Any], Any]] = {
    "str": _text,
    "bool": lambda value: value is True,
    "int | None": _integer,
    "float | None": number,
    "float": lambda value: number(value) or 0.0,
    "tuple[float, ...]": _numbers,
    "Mapping[str, float]": _shares,
    "Mapping[str, str]": lambda value: {key: _text(one) for key, one in _mapping(value).items()},
    "Sequence[str]": lambda value: [_text(one) for one in _list(value)],
}
