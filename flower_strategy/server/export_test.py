"""An export that is killed at any point, or that a full disk ends, leaves one whole result."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from safetensors.numpy import load_file

from floe_plugins.errors import FloeError
from flower_strategy.adapters.adapter import AdapterState, LoraFactors, initial_adapter
from flower_strategy.clusters import Cluster
from flower_strategy.device.base_model import adapted_shapes
from flower_strategy.ranks.cost import RankDecision
from flower_strategy.ranks.policies import DeadlinePolicy
from flower_strategy.run_folder import load_history, load_manifest, result_folder
from flower_strategy.server.export import export_run
from flower_strategy.server.records import RoundRecord
from flower_strategy.server.result_folders import ResultFolders
from flower_strategy.server.state import RunState
from flower_strategy.settings import ClusteringSettings, EmbeddingSettings, TrainingSettings
from flower_strategy.testing.models import make_profile

RANK = 1
Shapes = Mapping[str, tuple[int, int]]
Snapshot = dict[str, bytes]
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Model:
    """A base model and the shapes of its layers."""

    folder: str
    shapes: Shapes


@pytest.fixture(scope="module")
def model(tiny_model: str) -> Model:
    return Model(tiny_model, adapted_shapes(tiny_model))


def a_state(shapes: Shapes, *, server_round: int, clusters: int) -> RunState:
    """Return a run whose every number says its round."""
    state = RunState(initial=initial_adapter(shapes, rank=RANK, seed=0))
    state.profiles = {node: make_profile() for node in range(clusters)}
    state.decisions = {node: RankDecision(1, 1.0, "it fits") for node in state.profiles}
    middle = state.profiles[0].embedding
    state.clusters = [Cluster(f"cluster-{i}", middle, (i,)) for i in range(clusters)]
    state.cluster_adapters = {
        cluster.name: AdapterState(
            {
                layer: LoraFactors(
                    b=np.full((rows, RANK), server_round, np.float32),
                    a=np.ones((RANK, columns), np.float32),
                )
                for layer, (rows, columns) in shapes.items()
            }
        )
        for cluster in state.clusters
    }
    state.history = [RoundRecord(round=server_round)]
    return state


def export(
    results: ResultFolders, model: Model, *, server_round: int, clusters: int | None = None
) -> None:
    """Export a round; odd ones have three clusters, even ones two."""
    count = clusters or 2 + server_round % 2
    with results.new(server_round) as folder:
        export_run(
            a_state(model.shapes, server_round=server_round, clusters=count),
            folder,
            training=TrainingSettings(model=model.folder),
            rank=RANK,
            policy=DeadlinePolicy(candidates=(1,)),
            embedding=EmbeddingSettings(),
            clustering=ClusteringSettings(),
        )


def snapshot(output: Path) -> Snapshot:
    """Return all files of a result by the paths that users write; empty without a result."""
    found = [output / name for name in ("manifest.json", "history.json")]
    for folder in output.glob("cluster-*"):
        found += folder.glob("*")
    # PEFT writes a set of names, whose order differs between processes.
    return {
        str(path.relative_to(output)): _sorted(path.read_bytes())
        if path.name == "adapter_config.json"
        else path.read_bytes()
        for path in found
        if path.is_file()
    }


def _sorted(config: bytes) -> bytes:
    content = json.loads(config)
    content["target_modules"].sort()
    return json.dumps(content, sort_keys=True).encode()


def check_weights(adapter: Path, *, server_round: int) -> None:
    """Check that every number of every update is the round's, as `a_state` has them."""
    weights = load_file(adapter / "adapter_model.safetensors")
    updates = [name for name in weights if name.endswith("lora_B.weight")]
    assert updates
    for name in updates:
        update = weights[name] @ weights[name.replace("lora_B", "lora_A")]
        np.testing.assert_allclose(update, server_round, rtol=1e-4)


def check_peft_loads(output: Path, model: Model) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    manifest = load_manifest(output)
    for cluster in manifest["clusters"]:
        base = AutoModelForCausalLM.from_pretrained(model.folder)
        loaded = PeftModel.from_pretrained(base, str(output / cluster["adapter"]))
        weights = {key: value for key, value in loaded.state_dict().items() if "lora_B" in key}
        assert len(weights) == len(model.shapes)
        check_weights(output / cluster["adapter"], server_round=manifest["round"])


# ------------------------------------------------- processes that come to grief


@dataclass(frozen=True)
class Grief:
    """What happens to an export: at its n-th step it is killed, or the disk is full from there on.

    A limit on the size of files does to a write what a full disk does.
    """

    kind: Literal["none", "killed", "full", "limit"]
    at: int = 0

    def begins(self, output: str) -> None:
        """Let it happen to this process."""
        if self.kind == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.at, resource.RLIM_INFINITY))
        elif self.kind != "none":
            sys.addaudithook(self._hook(output))

    def _hook(self, output: str) -> Any:
        count = 0

        def step(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event not in _STEPS or not any(_below(each, output) for each in arguments[:2]):
                return
            if self.kind == "full" and not _needs_room(event, arguments):
                return
            count += 1
            if self.kind == "killed" and count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.kind == "full" and count >= self.at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return step


_STEPS = ("open", "os.mkdir", "os.rename", "os.symlink", "os.link", "os.remove", "os.rmdir")


def _below(path: object, output: str) -> bool:
    return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(output)


def _needs_room(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        return bool(arguments[2] & _WRITES)
    return event in ("os.mkdir", "os.symlink", "os.link")


def _child(
    said: Connection, output: str, model: Model, rounds: tuple[int, ...], grief: Grief
) -> None:
    """Export some rounds in a process of its own; say "ready", then what went wrong or ""."""
    said.send("ready")
    grief.begins(output)
    try:
        results = ResultFolders(Path(output), after=rounds[0] - 1)
        for server_round in rounds:
            export(results, model, server_round=server_round)
    except FloeError as error:
        said.send(str(error))
    else:
        said.send("")


@dataclass
class Child:
    """An export in another process."""

    process: BaseProcess
    said: Connection

    def ends(self) -> str | None:
        """Wait for the end; return its error, "" without one, or None if it was killed."""
        self.process.join(300)
        assert self.process.exitcode in (0, -signal.SIGKILL), self.process.exitcode
        return None if self.process.exitcode else str(self.said.recv())


@dataclass
class Children:
    """Starts exports in processes of their own, which have loaded their modules already."""

    model: Model
    started: list[BaseProcess]

    def start(self, output: Path, *rounds: int, grief: Grief = Grief("none")) -> Child:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "gguf", "peft"])
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_child, args=(theirs, str(output), self.model, rounds, grief)
        )
        process.start()
        theirs.close()
        self.started.append(process)
        assert ours.recv() == "ready"
        return Child(process, ours)


@pytest.fixture
def children(model: Model) -> Iterator[Children]:
    made = Children(model, [])
    yield made
    for process in made.started:
        process.kill()
        process.join()


@dataclass(frozen=True)
class Case:
    """An output folder before and after an export; each try begins with a copy."""

    before: Path
    after: Path
    server_round: int

    def copy(self, folder: Path) -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.before, folder, symlinks=True)
        return folder


@pytest.fixture(params=["first", "later", "again", "old", "old and a file", "copy", "half copy"])
def case(request: pytest.FixtureRequest, tmp_path: Path, model: Model) -> Case:
    """Return the first result of a folder, one with fewer clusters, one of the same round.

    Of an earlier layout, and of a copy, the files stand in the output folder themselves.
    """
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    kind: str = request.param
    server_round = 1 if kind in ("first", "again") else 2
    if kind != "first":
        export(
            ResultFolders(before, after=-1),
            model,
            server_round=1,
            clusters=2 if kind == "again" else 3,
        )
    if kind in ("old", "old and a file", "copy"):
        copied = before.rename(tmp_path / "made")
        shutil.copytree(copied if kind == "copy" else result_folder(copied), before)
        assert not any(path.is_symlink() for path in before.rglob("*"))
    if kind == "old and a file":
        (before / "exports").mkdir()
        (before / "exports" / "current").touch()
    elif kind == "half copy":
        (before / "exports" / "current").unlink()
        shutil.copytree(before / "exports" / "round-0001", before / "exports" / "current")
        (before / "cluster-0").unlink()
        shutil.copytree(before / "exports" / "current" / "cluster-0", before / "cluster-0")
    shutil.copytree(before, after, symlinks=True)
    export(ResultFolders(after, after=server_round - 1), model, server_round=server_round)
    assert snapshot(after) != snapshot(before)
    return Case(before, after, server_round)


def check_goes_on(output: Path, case: Case, model: Model) -> None:
    """Check that the next start comes to the result, and leaves nothing half written."""
    results = ResultFolders(output, after=case.server_round - 1)
    assert not list(output.rglob("*.part"))
    export(results, model, server_round=case.server_round)
    assert snapshot(output) == snapshot(case.after)


def test_peft_loads_every_adapter_before_and_after(case: Case, model: Model) -> None:
    check_peft_loads(case.after, model)
    assert load_manifest(case.after)["round"] == case.server_round
    if snapshot(case.before):
        check_peft_loads(case.before, model)


def test_a_kill_at_any_step_leaves_the_old_result_or_the_new_one(
    case: Case, model: Model, children: Children, tmp_path: Path
) -> None:
    old, new = snapshot(case.before), snapshot(case.after)
    found = []
    for step in range(1, 200):
        output = case.copy(tmp_path / "run")
        child = children.start(output, case.server_round, grief=Grief("killed", step))
        if child.ends() is not None:
            break
        result = snapshot(output)
        assert result in (old, new), step
        found.append(result == new)
        check_goes_on(output, case, model)
    assert snapshot(output) == new
    # Most of the steps come before the one that makes the new result current, none undoes it.
    assert len(found) > 25
    assert found == sorted(found)
    assert found.count(False) > found.count(True) > 0


def test_a_disk_that_is_full_at_any_step_leaves_the_old_result_and_names_the_path(
    case: Case, model: Model, children: Children, tmp_path: Path
) -> None:
    old = snapshot(case.before)
    for step in range(1, 200):
        output = case.copy(tmp_path / "run")
        said = children.start(output, case.server_round, grief=Grief("full", step)).ends()
        if said == "":
            break
        assert said is not None
        assert f"{output}/exports" in said
        assert "No space left on device" in said
        assert snapshot(output) == old, step
        assert not list(output.rglob("*.part"))
        check_goes_on(output, case, model)
    assert snapshot(output) == snapshot(case.after)
    assert step > 12


def test_a_file_that_does_not_fit_leaves_the_old_result_and_names_the_path(
    case: Case, model: Model, children: Children, tmp_path: Path
) -> None:
    old, new = snapshot(case.before), snapshot(case.after)
    largest = max(map(len, new.values()))
    for limit in (0, 1, 100, *sorted({len(content) - 1 for content in new.values()})):
        output = case.copy(tmp_path / "run")
        said = children.start(output, case.server_round, grief=Grief("limit", limit)).ends()
        assert said is not None
        assert f"{output}/exports/round-" in said
        assert "File too large" in said
        assert snapshot(output) == old, limit
        assert not list(output.rglob("*.part"))
    output = case.copy(tmp_path / "run")
    assert children.start(output, case.server_round, grief=Grief("limit", largest)).ends() == ""
    assert snapshot(output) == new


def test_a_kill_at_any_time_leaves_the_old_result_or_the_new_one(
    case: Case, model: Model, children: Children, tmp_path: Path
) -> None:
    old, new = snapshot(case.before), snapshot(case.after)
    draw = random.Random(case.server_round)
    started = time.perf_counter()
    assert children.start(case.copy(tmp_path / "run"), case.server_round).ends() == ""
    whole = time.perf_counter() - started
    for _ in range(12):
        output = case.copy(tmp_path / "run")
        child = children.start(output, case.server_round)
        time.sleep(draw.uniform(0, whole))
        child.process.kill()
        child.process.join()
        result = snapshot(output)
        assert result in (old, new)
        if result:
            check_peft_loads(output, model)
        check_goes_on(output, case, model)


def test_who_reads_while_others_write_finds_one_whole_result(
    model: Model, children: Children, tmp_path: Path
) -> None:
    export(ResultFolders(tmp_path, after=-1), model, server_round=1)
    child = children.start(tmp_path, *range(2, 40))
    seen: set[Any] = set()
    while child.process.is_alive() or not seen:
        folder = result_folder(tmp_path)
        manifest, history = load_manifest(folder), load_history(folder)
        (only,) = history["rounds"]
        assert manifest["round"] == only["round"]
        for cluster in manifest["clusters"]:
            check_weights(folder / cluster["adapter"], server_round=manifest["round"])
        seen.add(manifest["round"])
    assert child.ends() == ""
    assert load_manifest(tmp_path)["round"] == 39
    assert max(seen) > 1
