from __future__ import annotations

from collections.abc import ItemsView
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flower_strategy.adapters.adapter import initial_adapter
from flower_strategy.clusters import Cluster, centroid, nearest
from flower_strategy.device.base_model import adapted_shapes
from flower_strategy.profile import DeviceProfile
from flower_strategy.ranks.cost import RankDecision
from flower_strategy.ranks.policies import DeadlinePolicy
from flower_strategy.run_folder import load_manifest
from flower_strategy.server.export import export_run
from flower_strategy.server.state import BAND, RunState, Slowdown
from flower_strategy.settings import ClusteringSettings, EmbeddingSettings, TrainingSettings

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


@pytest.mark.parametrize("identity", ["", "name:device-{}"])
def test_who_is_away_changes_no_more_of_a_draw_than_its_own_place(
    state: RunState, identity: str
) -> None:
    for node in range(12):
        state.profiles[node] = replace(state.profiles[node], identity=identity.format(node))
    state.clusters = [replace(state.clusters[0], members=tuple(range(12)))]
    drawn = set(state.sample(range(12), 0.5, (7, 0, 1)))
    assert len(drawn) == 6
    for away in range(12):
        present = [node for node in range(12) if node != away]
        assert drawn - {away} <= set(state.sample(present, 0.5, (7, 0, 1)))
    # Another round, another draw; all devices have their turn.
    rounds = [frozenset(state.sample(range(12), 0.5, (7, number))) for number in range(40)]
    assert len(set(rounds)) > 30
    assert all(10 <= sum(node in each for each in rounds) <= 30 for node in range(12))


def test_a_draw_is_the_same_under_other_node_ids(state: RunState) -> None:
    for node in range(12):
        state.profiles[node] = replace(state.profiles[node], identity=f"partition:{node}")
    drawn = state.sample(range(12), 0.5, (7, 3), least=2)
    names = {node: 900 - node for node in range(12)}
    state.rename(names)
    again = state.sample(sorted(names.values()), 0.5, (7, 3), least=2)
    assert set(again) == {names[node] for node in drawn}


class Counted(dict[int, Slowdown]):
    """Slowdowns that count how often all of them are iterated over."""

    passes = 0

    def items(self) -> ItemsView[int, Slowdown]:  # type: ignore[override]
        self.passes += 1
        return super().items()


def exported(state: RunState, folder: Path, settings: TrainingSettings) -> dict[str, Any]:
    return export_run(
        state,
        folder,
        training=settings,
        rank=8,
        policy=DeadlinePolicy(candidates=(4, 8)),
        embedding=EmbeddingSettings(),
        clustering=SETTINGS,
    )


def test_a_cluster_has_the_form_of_most_of_its_examples(
    state: RunState, settings: TrainingSettings, tmp_path: Path
) -> None:
    state.decisions = {node: RankDecision(4, 1.0, "why") for node in state.profiles}
    first, second, third = state.clusters
    for node in (*first.members, *second.members[:1]):
        state.profiles[node] = replace(state.profiles[node], form="chat")
    for node in third.members[:1]:
        state.profiles[node] = replace(state.profiles[node], form="chat", num_examples=1000)
    manifest = exported(state, tmp_path, settings)
    assert [cluster["form"] for cluster in manifest["clusters"]] == ["chat", "plain", "chat"]
    assert [device["form"] for device in manifest["devices"]] == [
        profile.form for profile in state.profiles.values()
    ]


def test_an_export_does_not_go_through_all_paces_for_each_device(
    state: RunState, settings: TrainingSettings, tmp_path: Path
) -> None:
    state.decisions = {node: RankDecision(4, 1.0, "why") for node in state.profiles}
    state.slowdowns = slowdowns = Counted({3: Slowdown(2.5)})
    exported(state, tmp_path, settings)
    assert slowdowns.passes <= 1
    devices = load_manifest(tmp_path)["devices"]
    assert [device["pace"] for device in devices] == [1.0, 1.0, 1.0, 2.5, *[1.0] * 8]
    # One line per device.
    assert len((tmp_path / "manifest.json").read_text("utf-8").splitlines()) > 12


def after(slowdown: Slowdown, *ratios: float) -> Slowdown:
    for ratio in ratios:
        slowdown = slowdown.observed(ratio)
    return slowdown


def test_a_device_that_is_twice_as_slow_counts_at_once() -> None:
    assert after(Slowdown(), 3.0).factor == pytest.approx(3.0)


def test_a_smaller_slowdown_counts_after_two_rounds() -> None:
    once = after(Slowdown(), 1.5)
    assert once.factor == 1.0
    assert after(once, 1.6).factor == pytest.approx(np.sqrt(1.5 * 1.6))


def test_a_device_that_recovers_is_taken_at_its_profile_again() -> None:
    assert after(Slowdown(3.0), 1.02).factor == 3.0
    assert after(Slowdown(3.0), 1.02, 0.97).factor == 1.0


def test_one_odd_round_among_usual_ones_changes_nothing() -> None:
    assert after(Slowdown(), 1.6, 1.0, 1.6, 0.7, 1.7, 0.6) == Slowdown(1.0, (0.6,))


def test_noise_within_the_band_never_moves_the_slowdown() -> None:
    generator = np.random.default_rng(0)
    slowdown = Slowdown(1.4)
    for ratio in generator.uniform(1.4 / BAND, 1.4 * BAND, 500):
        slowdown = slowdown.observed(float(ratio))
    assert slowdown.factor == 1.4


def test_a_late_reply_doubles_the_slowdown() -> None:
    assert Slowdown(1.5).late().factor == 3.0


def test_no_observation_makes_the_slowdown_endless_or_zero() -> None:
    slowdown = Slowdown()
    for _ in range(2000):
        slowdown = slowdown.late()
    assert slowdown.factor == 1000.0
    assert after(Slowdown(), 1e300).factor == 1000.0
    assert after(Slowdown(), 0.0, 0.0).factor == pytest.approx(0.001)
