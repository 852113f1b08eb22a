"""A run that is interrupted after any round resumes and yields the same result."""

from pathlib import Path

import numpy as np
import pytest

from floe_plugins.errors import ConfigError
from flower_strategy import FloeStrategy
from flower_strategy.config import ConfigValue
from flower_strategy.run_folder import load_history, load_manifest
from flower_strategy.server.checkpoint import load_checkpoint
from flower_strategy.server.uploads import checkpoint_files
from flower_strategy.testing.grids import LocalGrid, start_run

NODES = 6


@pytest.fixture
def run_config(run_config: dict[str, ConfigValue], tmp_path: Path) -> dict[str, ConfigValue]:
    return {
        **run_config,
        "output": str(tmp_path / "unbroken"),
        "rounds": 4,
        "local-steps": 2,
        "max-length": 48,
        "eval-examples": 4,
        "fraction-train": 0.6,
        "fill-deadline": False,
        "lr-schedule": "cosine",
        "learning-rate-min": 0.001,
        "warmup-ratio": 0.2,
        "lora-dropout": 0.1,
        "embedding-noise": 0.001,
        "round-timeout": 5.0,
        # Slowdowns follow measured seconds, which differ between two runs.
        "rank-correction": False,
    }


class Killed(Exception):
    """Stands for the death of the server's process."""


class MortalGrid(LocalGrid):
    """A grid whose server dies when it sends its n-th batch of training messages."""

    def __init__(self, run_config: dict[str, ConfigValue], dies_in_round: int) -> None:
        super().__init__(run_config, NODES)
        self._left = dies_in_round

    def push_messages(self, messages):  # type: ignore[no-untyped-def]
        messages = list(messages)
        if messages and messages[0].metadata.message_type == "train":
            self._left -= 1
            if not self._left:
                raise Killed
        return super().push_messages(messages)


def start(run_config: dict[str, ConfigValue], grid: LocalGrid) -> FloeStrategy:
    return start_run(run_config, grid)[0]


def members(strategy: FloeStrategy) -> dict[str, set[str]]:
    state = strategy.state
    return {
        cluster.name: {state.profiles[node].identity for node in cluster.members}
        for cluster in state.clusters
    }


def trained(strategy: FloeStrategy) -> list[set[str]]:
    state = strategy.state
    return [
        {state.profiles[node].identity for node, d in record.devices.items() if d.rank is not None}
        for record in state.history
    ]


def test_a_killed_run_goes_on_to_what_the_unbroken_one_gives(
    run_config: dict[str, ConfigValue], tmp_path: Path
) -> None:
    unbroken = start(run_config, LocalGrid(run_config, NODES))
    assert len(unbroken.state.clusters) >= 2
    # Three of six devices train in a round, and not the same ones each time.
    assert len({frozenset(round_) for round_ in trained(unbroken)[1:]}) > 1

    broken_config = {**run_config, "output": str(tmp_path / "broken")}
    mortal = MortalGrid(broken_config, dies_in_round=3)
    with pytest.raises(Killed):
        start(broken_config, mortal)
    resumed_config = {**broken_config, "resume": str(tmp_path / "broken")}
    # Different node ids in a different order, as in another run.
    grid = LocalGrid(resumed_config, NODES, first=7000, states=mortal.states)
    resumed = start(resumed_config, grid)

    assert members(resumed) == members(unbroken)
    assert trained(resumed) == trained(unbroken)
    assert all(node >= 7000 for node in resumed.state.profiles)
    for name, adapter in unbroken.state.cluster_adapters.items():
        for layer in adapter.layers:
            ours, theirs = adapter.delta(layer), resumed.state.cluster_adapters[name].delta(layer)
            np.testing.assert_allclose(theirs, ours, atol=1e-6)
    history = load_history(tmp_path / "broken")
    assert [record["round"] for record in history["rounds"]] == [0, 1, 2, 3, 4]
    assert load_manifest(tmp_path / "broken")["clusters"][0]["loss_after"] == pytest.approx(
        load_manifest(tmp_path / "unbroken")["clusters"][0]["loss_after"], abs=1e-5
    )


def test_a_finished_run_resumes_to_its_export(
    run_config: dict[str, ConfigValue], tmp_path: Path
) -> None:
    run_config |= {"rounds": 1}
    first = start(run_config, LocalGrid(run_config, NODES))
    manifest = tmp_path / "unbroken" / "manifest.json"
    manifest.unlink()
    grid = LocalGrid(run_config, NODES)
    again = start({**run_config, "resume": str(tmp_path / "unbroken")}, grid)
    assert not grid.sent
    assert manifest.exists()
    assert again.state.losses("cluster-0") == first.state.losses("cluster-0")


def test_a_resumed_run_says_which_of_all_its_settings_have_changed(
    run_config: dict[str, ConfigValue], tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    run_config |= {"rounds": 1}
    start(run_config, LocalGrid(run_config, NODES))
    resumed = {**run_config, "resume": str(tmp_path / "unbroken")}
    resumed |= {"silhouette": 0.4, "embedding-texts": 4, "learning-rate": 0.01, "ranks": "2,8"}
    start(resumed, LocalGrid(resumed, NODES))
    said = {record.getMessage() for record in log.records if record.levelname == "WARNING"}
    assert {text for text in said if text.startswith("The run had ")} == {
        "The run had clustering.threshold=0.3 and goes on with 0.4.",
        "The run had embedding.texts=8 and goes on with 4.",
        "The run had learning-rate=0.02 and goes on with 0.01.",
        "The run had ranks=[2, 4, 8] and goes on with [2, 8].",
    }


def test_a_run_that_goes_on_in_another_folder_leaves_the_first_one_as_it_is(
    run_config: dict[str, ConfigValue], tmp_path: Path
) -> None:
    run_config |= {"rounds": 2, "keep-checkpoints": 9}
    start(run_config, LocalGrid(run_config, NODES))
    first = tmp_path / "unbroken"
    before = {path.name for path in (first / "checkpoints" / "uploads").iterdir()}
    fork = {**run_config, "output": str(tmp_path / "fork")}
    fork["resume"] = str(first / "checkpoints" / "round-0001")
    start(fork, LocalGrid(fork, NODES))
    assert load_checkpoint(first).round == load_checkpoint(tmp_path / "fork").round == 2
    assert len(load_history(tmp_path / "fork")["rounds"]) == 3
    assert {path.name for path in (first / "checkpoints" / "uploads").iterdir()} == before
    needed = checkpoint_files(tmp_path / "fork" / "checkpoints" / "round-0002")
    kept = {path.name for path in (tmp_path / "fork" / "checkpoints" / "uploads").iterdir()}
    assert needed <= kept


def test_a_run_resumes_though_an_upload_is_gone(
    run_config: dict[str, ConfigValue], tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    run_config |= {"rounds": 1, "fraction-train": 1.0}
    grid = LocalGrid(run_config, NODES)
    start(run_config, grid)
    first, *_ = sorted((tmp_path / "unbroken" / "checkpoints" / "uploads").iterdir())
    first.unlink()
    resumed = {**run_config, "rounds": 2, "resume": str(tmp_path / "unbroken")}
    strategy = start(resumed, LocalGrid(resumed, NODES, states=grid.states))
    assert f"among them {first.name}: their devices count again" in log.text
    assert all(cluster.moved for cluster in strategy.state.history[2].clusters.values())
    # The devices still have what they have learned.
    assert {upload.began for upload in strategy.state.uploads.values()} == {1}


def test_clusters_that_have_moved_cannot_be_split_by_adapters_any_more(
    run_config: dict[str, ConfigValue], tmp_path: Path
) -> None:
    run_config |= {"rounds": 1}
    start(run_config, LocalGrid(run_config, NODES))
    resumed = {**run_config, "resume": str(tmp_path / "unbroken"), "cluster-by": "adapter"}
    with pytest.raises(ConfigError, match="Resume with cluster-by='embedding'"):
        start(resumed, LocalGrid(resumed, NODES))


def test_a_checkpoint_of_another_run_is_refused(
    run_config: dict[str, ConfigValue], tmp_path: Path
) -> None:
    run_config |= {"rounds": 1}
    start(run_config, LocalGrid(run_config, NODES))
    resume = {**run_config, "resume": str(tmp_path / "unbroken")}
    with pytest.raises(ConfigError, match=r"cluster adapters of rank 8; .* now ask for 16"):
        start({**resume, "export-rank": 16}, LocalGrid(resume, NODES))
    modules = r"for 14 modules .*target-modules=all-linear; .* has 2, with target-modules=q_proj\."
    with pytest.raises(ConfigError, match=modules):
        start({**resume, "target-modules": "q_proj"}, LocalGrid(resume, NODES))
    other = {**run_config, "output": str(tmp_path / "other")}
    start(other, LocalGrid(other, NODES))
    with pytest.raises(ConfigError, match="choose another output"):
        start({**other, "resume": str(tmp_path / "unbroken")}, LocalGrid(other, NODES))
