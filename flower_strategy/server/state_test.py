from __future__ import annotations

from collections.abc import ItemsView
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flower_strategy.adapters.adapter import initial_adapter
from flower_strategy.clusters import Cluster, ClusteringSettings, centroid, nearest
from flower_strategy.device.base_model import adapted_shapes
from flower_strategy.device.embedding import EmbeddingSettings
from flower_strategy.device.profile import DeviceProfile
from flower_strategy.device.training import TrainingSettings
from flower_strategy.ranks.cost import RankDecision
from flower_strategy.ranks.policies import DeadlinePolicy
from flower_strategy.run_folder import load_manifest
from flower_strategy.server.export import export_run
from flower_strategy.server.slowdown import Pace
from flower_strategy.server.state import RunState

SETTINGS = ClusteringSettings()


def profile(*, seed: int) -> DeviceProfile:
    random = np.random.default_rng(seed)
    vector = np.eye(12)[seed % 3] + random.normal(scale=0.25, size=12)
    return DeviceProfile(
        device="phone",
        memory_bytes=2**30,
        fixed_bytes=0,
        bytes_per_rank=1,
        upload_per_rank=1,
        step_ranks=(4, 32),
        step_seconds=(1.0, 2.0),
        bandwidth=1e6,
        num_examples=8,
        embedding=(vector / np.linalg.norm(vector)).astype(np.float32),
    )


@pytest.fixture
def state(settings: TrainingSettings) -> RunState:
    """Return a run of twelve devices in three clusters."""
    initial = initial_adapter(adapted_shapes(settings.model), rank=8, seed=0)
    state = RunState(initial=initial)
    state.profiles = {node: profile(seed=node) for node in range(12)}
    state.place(list(state.profiles), SETTINGS)
    assert len(state.clusters) == 3
    return state


def test_newcomers_join_one_by_one_and_centroids_move_along(state: RunState) -> None:
    expected: list[Cluster] = list(state.clusters)
    new = list(range(60, 20, -1))
    state.profiles |= {node: profile(seed=node) for node in new}
    for node in new:
        home = nearest(state.profiles[node].embedding, expected)
        members = tuple(sorted((*home.members, node)))
        middle = centroid(state.profiles[member].embedding for member in members)
        expected[expected.index(home)] = replace(home, members=members, centroid=middle)
    state.place(new, SETTINGS)
    assert [c.members for c in state.clusters] == [c.members for c in expected]
    for found, wanted in zip(state.clusters, expected, strict=True):
        np.testing.assert_allclose(found.centroid, wanted.centroid, atol=1e-6)
        assert found.centroid.dtype == np.float32


class Counted(dict[int, Pace]):
    """Paces that count how often somebody goes through all of them."""

    passes = 0

    def items(self) -> ItemsView[int, Pace]:  # type: ignore[override]
        self.passes += 1
        return super().items()


def test_an_export_does_not_go_through_all_paces_for_each_device(
    state: RunState, settings: TrainingSettings, tmp_path: Path
) -> None:
    state.decisions = {node: RankDecision(4, 1.0, "why") for node in state.profiles}
    state.paces = paces = Counted({3: Pace(2.5)})
    export_run(
        state,
        tmp_path,
        training=settings,
        rank=8,
        policy=DeadlinePolicy(candidates=(4, 8)),
        embedding=EmbeddingSettings(),
        clustering=SETTINGS,
    )
    assert paces.passes <= 1
    devices = load_manifest(tmp_path)["devices"]
    assert [device["pace"] for device in devices] == [1.0, 1.0, 1.0, 2.5, *[1.0] * 8]
    # One device a line.
    assert len((tmp_path / "manifest.json").read_text("utf-8").splitlines()) > 12
