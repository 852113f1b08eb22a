import json
import resource
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from floe_plugins.errors import ConfigError
from flower_strategy.adapters.adapter import AdapterState, LoraFactors, initial_adapter
from flower_strategy.ranks.cost import RankDecision
from flower_strategy.server.best import Best
from flower_strategy.server.checkpoint import (
    ARRAYS_FILE,
    CHECKPOINTS_FOLDER,
    STATE_FILE,
    load_checkpoint,
    save_checkpoint,
    set_aside_checkpoints,
    set_aside_later_checkpoints,
)
from flower_strategy.server.records import ClusterRound, DeviceRound, Refusal, RoundRecord
from flower_strategy.server.state import RunState, Slowdown
from flower_strategy.server.uploads import Upload, UploadStore, checkpoint_files
from flower_strategy.settings import ClusteringSettings
from flower_strategy.testing.models import make_profile

NODE = 2**63 + 11


def a_state() -> RunState:
    state = RunState(initial=initial_adapter({"x.q_proj": (6, 4)}, rank=3, seed=1))
    state.profiles = {NODE: make_profile(bandwidth=float("inf")), 7: make_profile(identity="me")}
    state.left_since = {7: 2}
    state.decisions = {
        NODE: RankDecision(4, 1.5, "it fits"),
        7: RankDecision(None, 99.0, "it does not"),
    }
    state.slowdowns = {7: Slowdown(2.5, (1.0, 1.1))}
    state.links = {7: Slowdown(0.5, (0.2,))}
    state.sketches = {7: np.arange(3, dtype=np.float32)}
    state.place([NODE, 7], ClusteringSettings())
    layers = {"x.q_proj": LoraFactors(b=np.ones((6, 2), np.float32), a=np.ones((2, 4), np.float32))}
    state.cluster_adapters = {"cluster-0": AdapterState(layers)}
    state.best = {
        "cluster-0": Best(
            round=1,
            adapter=state.initial,
            losses={NODE: (2.5, 30), 7: (2.0, 4)},
            waited=2,
            stopped_in=2,
            uncompared=3,
        )
    }
    state.uploads = {
        NODE: Upload(began=1, file="one.safetensors", scaling=2.0, kept=0.5, move=0.1, missed=2),
        7: Upload(began=2, anchor="two.safetensors", file="three.safetensors"),
    }
    state.steps, state.stateless = {NODE: 12, 7: 3, 9: 1}, {9}
    record = RoundRecord(round=2, seconds=1.25, notes=["it rained"], left_out={7: "it does not"})
    record.clusters = {"cluster-0": ClusterRound(asked=2, replies=1, discarded_by_layer={"x": 0.5})}
    record.devices = {NODE: DeviceRound(cluster="cluster-0", rank=4, observed_seconds=1.0)}
    record.refused = [Refusal(7, "train", "no reply", late=True)]
    state.history = [record]
    return state


def save(state: RunState, output: Path, server_round: int = 2, keep: int = 2) -> Path:
    return save_checkpoint(
        state,
        output,
        server_round=server_round,
        uploads=UploadStore(),
        deadline=3.5,
        settings={"model": "m"},
        keep=keep,
    )


def test_of_a_checkpoint_that_does_not_fit_nothing_is_left(tmp_path: Path) -> None:
    save(a_state(), tmp_path, server_round=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # This limit fails a write as a full disk does; Python ignores its signal.
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        with pytest.raises(OSError, match=r"large|error"):
            save(a_state(), tmp_path, server_round=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / CHECKPOINTS_FOLDER).iterdir()] == ["round-0001"]
    assert load_checkpoint(str(tmp_path)).round == 1


def test_a_checkpoint_with_the_lengths_that_earlier_versions_kept_is_read(tmp_path: Path) -> None:
    file = save(a_state(), tmp_path) / STATE_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "norms": [0.1, 0.2]}))
    assert load_checkpoint(tmp_path).state.clusters_made == a_state().clusters_made


def test_a_checkpoint_gives_back_all_of_the_state(tmp_path: Path) -> None:
    state = a_state()
    folder = save(state, tmp_path)
    assert checkpoint_files(folder) == {f"{name}.safetensors" for name in ("one", "two", "three")}
    for path in (tmp_path, tmp_path / CHECKPOINTS_FOLDER, folder):
        found = load_checkpoint(path)
        assert (found.round, found.deadline, found.settings) == (2, 3.5, {"model": "m"})
        assert found.path == folder
    back = found.state
    for name in ("left_since", "decisions", "slowdowns", "links", "clusters_made", "history"):
        assert getattr(back, name) == getattr(state, name), name
    for name in ("run", "uploads", "steps", "stateless"):
        assert getattr(back, name) == getattr(state, name), name
    for node, profile in state.profiles.items():
        ours, theirs = asdict(profile), asdict(back.profiles[node])
        np.testing.assert_array_equal(ours.pop("embedding"), theirs.pop("embedding"))
        assert ours == theirs
    np.testing.assert_array_equal(back.sketches[7], state.sketches[7])
    assert [(c.name, c.members) for c in back.clusters] == [("cluster-0", (7, NODE))]
    np.testing.assert_array_equal(back.clusters[0].centroid, state.clusters[0].centroid)
    for adapters, known in (
        ({"": back.initial}, {"": state.initial}),
        (back.cluster_adapters, state.cluster_adapters),
    ):
        assert adapters.keys() == known.keys()
        for name in known:
            factors = adapters[name].layers["x.q_proj"]
            np.testing.assert_array_equal(factors.a, known[name].layers["x.q_proj"].a)
            np.testing.assert_array_equal(factors.b, known[name].layers["x.q_proj"].b)


def test_the_best_round_of_a_cluster_returns_with_its_adapter(tmp_path: Path) -> None:
    state = a_state()
    best = state.best["cluster-0"]
    for adapter in (state.initial, state.cluster_adapters["cluster-0"]):
        state.best = {"cluster-0": replace(best, adapter=adapter)}
        save(state, tmp_path)
        back = load_checkpoint(tmp_path).state
        found = back.best["cluster-0"]
        for name in ("round", "losses", "waited", "stopped_in", "uncompared"):
            assert getattr(found, name) == getattr(best, name)
        np.testing.assert_array_equal(found.adapter.delta("x.q_proj"), adapter.delta("x.q_proj"))
    # The last one is the cluster's own, and is written once.
    assert found.adapter is back.cluster_adapters["cluster-0"]


def test_only_the_newest_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    for number in (0, 1, 9, 10, 11):
        save(a_state(), tmp_path, server_round=number)
    names = sorted(path.name for path in (tmp_path / CHECKPOINTS_FOLDER).iterdir())
    assert names == ["round-0010", "round-0011"]
    assert load_checkpoint(tmp_path).round == 11


def test_a_server_that_dies_while_writing_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(a_state(), tmp_path, server_round=1)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    # A real power cut is impossible here: the rename, the last step, fails instead.
    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            save(a_state(), tmp_path, server_round=2)
    assert load_checkpoint(tmp_path).round == 1
    save(a_state(), tmp_path, server_round=2)
    assert load_checkpoint(tmp_path).round == 2
    assert not list((tmp_path / CHECKPOINTS_FOLDER).glob("*.part"))


def test_an_earlier_run_is_set_aside_and_not_mixed_in(tmp_path: Path) -> None:
    set_aside_checkpoints(tmp_path)
    save(a_state(), tmp_path, server_round=5)
    set_aside_checkpoints(tmp_path)
    with pytest.raises(ConfigError, match="There is no checkpoint at"):
        load_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path / "checkpoints.previous").round == 5


def test_rounds_that_are_made_again_are_not_taken_for_newer(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save(a_state(), tmp_path, server_round=number, keep=9)
    resumed = load_checkpoint(tmp_path / CHECKPOINTS_FOLDER / "round-0001")
    set_aside_later_checkpoints(tmp_path / "elsewhere", resumed)
    assert load_checkpoint(tmp_path).round == 3
    set_aside_later_checkpoints(tmp_path, resumed)
    assert load_checkpoint(tmp_path).round == 1
    assert (tmp_path / CHECKPOINTS_FOLDER / "round-0003.abandoned" / STATE_FILE).is_file()


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resume must name a run's output folder"):
        load_checkpoint(tmp_path / "nowhere")
    folder = save(a_state(), tmp_path)
    arrays, text = (folder / ARRAYS_FILE).read_bytes(), (folder / STATE_FILE).read_text()
    (folder / ARRAYS_FILE).write_bytes(arrays[:100])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_checkpoint(tmp_path)
    (folder / ARRAYS_FILE).write_bytes(arrays)
    (folder / STATE_FILE).write_text(text[:-9])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_checkpoint(tmp_path)
    (folder / STATE_FILE).write_text(json.dumps({**json.loads(text), "format": 99}))
    with pytest.raises(ConfigError, match="has format 99"):
        load_checkpoint(tmp_path)
