"""Checkpoints: the state after every round, complete or absent.

The output folder's ``checkpoints``::

    round-0003/state.json           profiles, decisions, slowdowns, clusters, history
    round-0003/arrays.safetensors   initial and cluster adapters, embeddings, sketches
    round-0003/uploads.json         the files of uploads that it needs
    uploads/                        what devices last sent, see `flower_strategy.server.uploads`

A checkpoint is written into a folder of another name, which is renamed once everything is on the
disk, so a folder named ``round-...`` is complete whenever the server dies. Random choices are drawn
from (seed, round), so no generator's state is saved. A resumed run continues after the last
finished round. It yields the same result where the devices still have their states; in another run
of Flower, as ``flwr run`` starts it, they begin anew (`flower_strategy.device.kept_state`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from floe_plugins import files
from floe_plugins.errors import ConfigError
from flower_strategy.adapters.adapter import AdapterState, LoraFactors
from flower_strategy.clusters import Cluster
from flower_strategy.profile import DeviceProfile
from flower_strategy.ranks.cost import RankDecision
from flower_strategy.run_folder import round_name, round_of
from flower_strategy.server.best import Best
from flower_strategy.server.records import ClusterRound, DeviceRound, Refusal, RoundRecord
from flower_strategy.server.state import RunState, Slowdown
from flower_strategy.server.uploads import (
    UPLOADS_FILE,
    UPLOADS_FOLDER,
    Upload,
    UploadStore,
    files_of,
)

CHECKPOINTS_FOLDER = "checkpoints"
STATE_FILE = "state.json"
ARRAYS_FILE = "arrays.safetensors"

_FORMAT = 2
_PREVIOUS = ".previous"
_ABANDONED = ".abandoned"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run after one of its rounds.

    Attributes
    ----------
    round : int
        The last finished round.
    state : RunState
        The run.
    deadline : float or None
        The rank policy's seconds per round.
    settings : dict[str, Any]
        The settings of the saved run, to compare with those of the resumed one.
    path : Path
        Where it was read from.
    """

    round: int
    state: RunState
    deadline: float | None
    settings: dict[str, Any]
    path: Path


def save_checkpoint(
    state: RunState,
    output: Path,
    *,
    server_round: int,
    uploads: UploadStore,
    deadline: float | None,
    settings: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`.

    Parameters
    ----------
    state : RunState
        The run.
    output : Path
        The run's output folder; made when absent.
    server_round : int
        The last finished round.
    uploads : UploadStore
        What devices have sent.
    deadline : float or None
        The rank policy's seconds per round.
    settings : Mapping[str, Any]
        Settings of the run, as JSON values.
    keep : int
        Checkpoints to keep, at least 1.

    Returns
    -------
    Path
        The checkpoint's folder.

    Raises
    ------
    OSError
        It cannot be written; nothing of it is left behind.
    """
    folder = output / CHECKPOINTS_FOLDER
    target = folder / round_name(server_round)
    folder.mkdir(parents=True, exist_ok=True)
    files.remove_parts(target)
    uploads.sync()
    content, arrays = pack(state)
    head = {
        "format": _FORMAT,
        "round": server_round,
        "deadline": deadline,
        "settings": dict(settings),
    }
    try:
        with files.new_folder(target, replace=True, durable=True) as part:
            save_file(arrays, part / ARRAYS_FILE)
            (part / STATE_FILE).write_text(json.dumps({**head, **content}), encoding="utf-8")
            needed = json.dumps(sorted(files_of(state.uploads)))
            (part / UPLOADS_FILE).write_text(needed, encoding="utf-8")
    # safetensors wraps errors of the disk in an error of its own.
    except SafetensorError as error:
        raise OSError(str(error)) from error
    for _, old in _complete(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def upload_store(
    output: Path | None, *, keep: int, resumed: Checkpoint | None = None
) -> UploadStore:
    """Return where a run keeps what devices send: beside its checkpoints, if it writes any.

    Raises
    ------
    UploadError
        What the resumed checkpoint needs cannot be taken over.
    """
    folder = None
    if output is not None and keep:
        folder = output / CHECKPOINTS_FOLDER / UPLOADS_FOLDER
    store = UploadStore(folder)
    if resumed is not None:
        store.take_over(resumed.state.uploads, resumed.path.parent / UPLOADS_FOLDER)
    return store


def set_aside_checkpoints(output: Path) -> None:
    """Rename an earlier run's checkpoints, to keep them apart from a new run's.

    They stay in ``checkpoints.previous`` until the next run.
    """
    folder = output / CHECKPOINTS_FOLDER
    if not folder.exists():
        return
    previous = folder.with_name(folder.name + _PREVIOUS)
    shutil.rmtree(previous, ignore_errors=True)
    folder.rename(previous)


def refuse_foreign_checkpoints(output: Path, resumed: Checkpoint) -> None:
    """Refuse to mix a resumed run's checkpoints with those of another run.

    Raises
    ------
    ConfigError
        The output folder holds checkpoints, and the run does not resume from one of them.
    """
    folder = output / CHECKPOINTS_FOLDER
    if folder.exists() and resumed.path.parent.resolve() != folder.resolve():
        raise ConfigError(
            f"The output folder {output} holds checkpoints, and resume names another run's, "
            f"{resumed.path}: choose another output, or resume={str(output)!r}."
        )


def set_aside_later_checkpoints(output: Path, resumed: Checkpoint) -> None:
    """Rename the checkpoints of rounds that are repeated, so that none is taken for newer.

    They stay as ``round-NNNN.abandoned``. A run that continues in another folder leaves the folder
    that it is resumed from unchanged.
    """
    for number, path in _complete(output / CHECKPOINTS_FOLDER):
        if number > resumed.round:
            aside = path.with_name(path.name + _ABANDONED)
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint, or the newest one of a run.

    Parameters
    ----------
    path : Path or str
        A run's output folder, its ``checkpoints``, or one checkpoint.

    Raises
    ------
    ConfigError
        There is none, or it cannot be read.
    """
    given = Path(path).expanduser().absolute()
    for candidate in (given, given / CHECKPOINTS_FOLDER):
        if (candidate / STATE_FILE).is_file():
            return _read(candidate)
        if complete := _complete(candidate):
            return _read(complete[-1][1])
    raise ConfigError(
        f"There is no checkpoint at {given}: resume must name a run's output folder, or one of "
        f"the folders {CHECKPOINTS_FOLDER}/round-NNNN in it."
    )


def resume(
    path: Path,
    output: Path | None,
    *,
    initial: AdapterState,
    settings: Mapping[str, Any],
    by_adapter: bool,
) -> Checkpoint:
    """Read the checkpoint that a run resumes from; set aside those of repeated rounds.

    Parameters
    ----------
    path : Path
        A run's folder, or one checkpoint.
    output : Path or None
        The output folder of the resumed run.
    initial : AdapterState
        The adapter that a new run would start with.
    settings : Mapping[str, Any]
        The settings of the resumed run.
    by_adapter : bool
        Whether devices are clustered by the adapters that they train first.

    Raises
    ------
    ConfigError
        There is no such checkpoint, or it does not fit the run.
    """
    checkpoint = load_checkpoint(path)
    if output is not None:
        refuse_foreign_checkpoints(output, checkpoint)
    if by_adapter and checkpoint.state.moved_unsketched:
        raise ConfigError(
            f"Checkpoint {checkpoint.path} is of a run with cluster-by='embedding' whose "
            "clusters have moved: B matrices can be compared after the first round alone. "
            "Resume with cluster-by='embedding'."
        )
    found, same = checkpoint.settings, checkpoint.state.initial
    if found["model"] != settings["model"]:
        raise ConfigError(
            f"Checkpoint {checkpoint.path} is of the base model {found['model']!r}; the run "
            f"configuration has model={settings['model']!r}. Resume with the same model."
        )
    if same.shapes != initial.shapes:
        raise ConfigError(
            f"Checkpoint {checkpoint.path} has factors for {len(same.layers)} modules of the base "
            f"model, with target-modules={_listed(found)}; the run now has "
            f"{len(initial.layers)}, with target-modules={_listed(settings)}. Resume with the same "
            "modules."
        )
    if same.rank != initial.rank:
        raise ConfigError(
            f"Checkpoint {checkpoint.path} has cluster adapters of rank {same.rank}; ranks and "
            f"export-rank now ask for {initial.rank}. Resume with the same ranks."
        )
    if output is not None:
        set_aside_later_checkpoints(output, checkpoint)
    return checkpoint


def _listed(settings: Mapping[str, Any]) -> str:
    return ",".join(settings.get("target_modules", ["not known"]))


def _read(folder: Path) -> Checkpoint:
    try:
        content = json.loads((folder / STATE_FILE).read_text("utf-8"))
        if content.get("format") != _FORMAT:
            raise ConfigError(
                f"Checkpoint {folder} has format {content.get('format')!r}; this version of Floe "
                f"reads format {_FORMAT}."
            )
        state = unpack(content, load_file(folder / ARRAYS_FILE))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"Checkpoint {folder} cannot be read: {error!r}.") from error
    return Checkpoint(content["round"], state, content["deadline"], content["settings"], folder)


def _complete(folder: Path) -> list[tuple[int, Path]]:
    """Return the complete checkpoints of a folder with their rounds, oldest first."""
    found = ((round_of(path.name), path) for path in folder.glob("*"))
    return sorted((number, path) for number, path in found if number is not None)


Arrays = dict[str, NDArray[np.float32]]


def pack(state: RunState) -> tuple[dict[str, Any], Arrays]:
    """Return a state's values for JSON, and its arrays by name.

    Node ids are written as text, because not every JSON reader has 64-bit numbers.
    """
    arrays: Arrays = {}
    _pack_adapter(arrays, "initial", state.initial)
    for name, adapter in state.cluster_adapters.items():
        _pack_adapter(arrays, f"bank/{name}", adapter)
    for name, best in state.best.items():
        if best.adapter is not state.cluster_adapters[name]:
            _pack_adapter(arrays, f"best/{name}", best.adapter)
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
        "paces": {str(node): asdict(slowdown) for node, slowdown in state.slowdowns.items()},
        "links": {str(node): asdict(link) for node, link in state.links.items()},
        "sketches": [str(node) for node in state.sketches],
        "clusters": [
            {"name": cluster.name, "members": [str(node) for node in cluster.members]}
            for cluster in state.clusters
        ],
        "clusters_made": state.clusters_made,
        "best": {name: _pack_best(best) for name, best in state.best.items()},
        "run": state.run,
        "uploads": {str(node): asdict(upload) for node, upload in state.uploads.items()},
        "steps": {str(node): count for node, count in state.steps.items()},
        "stateless": [str(node) for node in sorted(state.stateless)],
        "split_by_adapter": state.split_by_adapter,
        "history": [pack_round(record) for record in state.history],
    }
    return content, {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def unpack(content: Mapping[str, Any], arrays: Mapping[str, NDArray[np.float32]]) -> RunState:
    """Return the state that `pack` wrote.

    Raises
    ------
    KeyError, TypeError, ValueError
        A value is missing or has the wrong type.
    """
    try:
        adapters = {
            cluster["name"]: _unpack_adapter(arrays, f"bank/{cluster['name']}")
            for cluster in content["clusters"]
        }
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
            slowdowns={
                int(node): Slowdown(values["factor"], tuple(values["outside"]))
                for node, values in content["paces"].items()
            },
            links={
                int(node): Slowdown(values["factor"], tuple(values["outside"]))
                for node, values in content["links"].items()
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
            cluster_adapters=adapters,
            best={
                name: _unpack_best(name, values, arrays, current=adapters[name])
                for name, values in content["best"].items()
            },
            run=content["run"],
            uploads={int(node): Upload(**values) for node, values in content["uploads"].items()},
            steps={int(node): count for node, count in content["steps"].items()},
            stateless={int(node) for node in content["stateless"]},
            split_by_adapter=content["split_by_adapter"],
            history=[unpack_round(values) for values in content["history"]],
        )
    except TypeError as error:
        raise ValueError(str(error)) from error


def pack_round(record: RoundRecord) -> dict[str, Any]:
    """Return a round's values for JSON, as ``history.json`` holds them."""
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
    """Return the round that `pack_round` wrote."""
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
    # Checkpoints from before smoothness-steps was removed have one more number.
    known = {name: value for name, value in values.items() if name != "smoothness"}
    return DeviceProfile(**{**known, **pairs}, embedding=embedding)


def _pack_best(best: Best) -> dict[str, Any]:
    losses = {str(node): list(measured) for node, measured in best.losses.items()}
    names = ("round", "waited", "stopped_in", "uncompared")
    numbers = {name: getattr(best, name) for name in names}
    return {**numbers, "losses": losses}


def _unpack_best(
    name: str,
    values: Mapping[str, Any],
    arrays: Mapping[str, NDArray[np.float32]],
    *,
    current: AdapterState,
) -> Best:
    """Return a cluster's best round; without arrays of its own its adapter is the current one."""
    own = any(key.startswith(f"best/{name}/") for key in arrays)
    losses = {int(node): (loss, tokens) for node, (loss, tokens) in values["losses"].items()}
    adapter = _unpack_adapter(arrays, f"best/{name}") if own else current
    return Best(**{**values, "losses": losses}, adapter=adapter)


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
