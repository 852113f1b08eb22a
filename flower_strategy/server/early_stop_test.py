"""A cluster stops where its loss no longer falls, and devices choose the models that they keep."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from safetensors.numpy import load_file

from flower_strategy import FloeStrategy
from flower_strategy.adapters.adapter import AdapterState, initial_adapter
from flower_strategy.config import ConfigValue
from flower_strategy.device.kept_state import load_state
from flower_strategy.messages import ARRAYS_KEY, CONFIG_KEY, METRICS_KEY
from flower_strategy.run_folder import load_history, load_manifest
from flower_strategy.server.best import Best
from flower_strategy.server.early_stop import judge
from flower_strategy.server.records import ClusterRound, DeviceRound, RoundRecord
from flower_strategy.server.round import Round
from flower_strategy.settings import Participation
from flower_strategy.testing.fleets import Fleet
from flower_strategy.testing.grids import LocalGrid, Tamper, start_run


@pytest.fixture
def run_config(run_config: dict[str, ConfigValue]) -> dict[str, ConfigValue]:
    return {
        **run_config,
        "rounds": 6,
        "local-steps": 2,
        "fill-deadline": False,
        "max-length": 48,
        "max-examples": 20,
        "validation": 0.3,
        "eval-examples": 3,
        "devices": "fast:4:1:1",
        "silhouette": 1.0,
        "round-timeout": 5.0,
        "rank-correction": False,
        "patience": 2,
    }


def with_losses(losses: list[float]) -> Tamper:
    """Give every device's validation loss of a round, from round 0."""

    def tamper(node: int, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "evaluate":
            number = int(str(message.content.config_records[CONFIG_KEY]["server-round"]))
            metrics = reply.content.metric_records[METRICS_KEY]
            metrics["validation-loss"] = losses[number] + (node % 10) / 100
            metrics["validation-tokens"] = 10 + node % 10
        return reply

    return tamper


RISING = [5.0, 4.0, 3.0, 3.5, 3.2, 2.0, 1.0]
"""Best in round 2, and after two rounds that are no better a cluster no longer trains."""


def sent(grid: LocalGrid, kind: str) -> list[Message]:
    return [message for message in grid.sent if message.metadata.message_type == kind]


def number_of(message: Message) -> Any:
    return message.content.config_records[CONFIG_KEY]["server-round"]


def test_a_cluster_that_overfits_stops_and_its_best_adapter_is_exported(
    run_config: dict[str, ConfigValue],
) -> None:
    """With real losses: so high a rate leaves the best round behind at once."""
    run_config |= {"rounds": 12, "local-steps": 15, "learning-rate": 0.05, "max-examples": 12}
    grid = LocalGrid(run_config, 2)
    strategy, _ = start_run(run_config, grid)
    history = strategy.state.history
    best = strategy.state.best["cluster-0"]
    stopped = best.stopped_in
    assert stopped is not None
    assert best.round == stopped - 2
    assert history[-1].round == stopped < 12
    losses = [record.clusters["cluster-0"].validation_loss for record in history]
    assert min(loss for loss in losses if loss is not None) == losses[best.round]
    assert {number_of(message) for message in sent(grid, "train")} == set(range(1, stopped + 1))
    (entry,) = load_manifest(Path(str(run_config["output"])))["clusters"]
    assert (entry["best_round"], entry["stopped_in"]) == (best.round, stopped)
    assert entry["loss_after"] == history[best.round].clusters["cluster-0"].held_out_loss


def test_what_a_stopped_cluster_exports_and_sends_last_is_its_best_adapter(
    run_config: dict[str, ConfigValue], log: pytest.LogCaptureFixture
) -> None:
    adapters: list[dict[str, Any]] = []

    class Watched(FloeStrategy):
        def move_adapters(self, means: Any) -> None:
            super().move_adapters(means)
            adapters.append({n: dense(a) for n, a in self.state.cluster_adapters.items()})

    grid = LocalGrid(run_config, 3, tamper=with_losses(RISING))
    strategy, result = start_run(run_config, grid, kind=Watched)
    assert strategy.state.best["cluster-0"].stopped_in == 4
    (second,) = adapters[1].values()
    np.testing.assert_allclose(dense(strategy.state.served("cluster-0")), second)
    found = AdapterState.from_arrays(
        {name.partition("/")[2]: array for name, array in result.arrays.items()}
    )
    np.testing.assert_allclose(dense(found), second)
    assert not np.allclose(adapters[3]["cluster-0"], second)
    final = [m for m in sent(grid, "evaluate") if "final" in m.content.config_records[CONFIG_KEY]]
    assert {number_of(message) for message in final} == {4}
    assert len(final) == 3
    said = "cluster-0 stops: its validation loss has not fallen for 2 rounds; its adapter is that "
    assert said + "of round 2" in log.text
    assert "devices keep: " in log.text
    assert "All clusters have stopped training: the run ends." in log.text
    folder = Path(str(run_config["output"]))
    manifest, history = load_manifest(folder), load_history(folder)
    assert sum(manifest["devices_keep"].values()) == 3
    kept = {device["node"]: device["keeps"] for device in manifest["devices"]}
    devices = history["rounds"][4]["devices"]
    assert kept == {node: device["keeps"] for node, device in devices.items()}
    assert history["rounds"][2]["clusters"]["cluster-0"]["validation_loss"] == pytest.approx(
        3 + (10 * 0 + 11 * 0.01 + 12 * 0.02) / 33
    )


def dense(adapter: AdapterState) -> Any:
    return np.concatenate([adapter.delta(layer).ravel() for layer in sorted(adapter.layers)])


def test_without_patience_the_best_adapter_is_exported_and_sent_in_the_last_round(
    run_config: dict[str, ConfigValue],
) -> None:
    grid = LocalGrid(run_config, 3, tamper=with_losses([5.0, 4.0, 3.0, 3.5, 3.6, 3.7, 3.8]))
    strategy, _ = start_run({**run_config, "patience": 0}, grid)
    best = strategy.state.best["cluster-0"]
    assert (best.round, best.stopped_in, best.waited) == (2, None, 4)
    last = [m for m in sent(grid, "evaluate") if number_of(m) == 6]
    # The last round's adapter, and then the best one.
    assert len(last) == 6
    assert all(m.content.config_records[CONFIG_KEY]["final"] for m in last)
    assert len({id(m.content[ARRAYS_KEY]) for m in last}) == 2
    assert all(device.keeps for device in strategy.state.history[6].devices.values())


def test_a_run_whose_last_round_is_best_sends_nothing_more_than_before(
    run_config: dict[str, ConfigValue],
) -> None:
    run_config |= {"rounds": 2}
    grid = LocalGrid(run_config, 3, tamper=with_losses(RISING))
    start_run(run_config, grid)
    assert len(sent(grid, "evaluate")) == 9
    assert len(sent(grid, "train")) == 6


@pytest.mark.parametrize("changes", [{"validation": 0.0}, {"fraction-evaluate": 0.0}])
def test_without_validation_nothing_stops(
    run_config: dict[str, ConfigValue], changes: dict[str, ConfigValue]
) -> None:
    run_config |= {"rounds": 3, "patience": 1, "learning-rate": 0.5, **changes}
    strategy, _ = start_run(run_config, LocalGrid(run_config, 2))
    assert not strategy.state.best
    assert strategy.state.history[3].clusters["cluster-0"].asked == 2
    assert all(d.validation_loss is None for d in strategy.state.history[3].devices.values())


def test_other_clusters_go_on_and_a_newcomer_of_a_stopped_one_gets_its_adapter_at_the_end(
    run_config: dict[str, ConfigValue],
) -> None:
    run_config |= {"silhouette": 0.3, "separation": 0.0}
    grid = LocalGrid(run_config, 6)
    home: dict[int, str] = {}

    class Later(FloeStrategy):
        def aggregate_evaluate(self, server_round: int, replies: Any) -> Any:
            home.update({node: self.state.cluster_of(node).name for node in self.state.profiles})
            if server_round == 4:
                grid.online.add(105)
            return super().aggregate_evaluate(server_round, replies)

    def tamper(node: int, message: Message, reply: Message) -> Message | None:
        falling = home.get(node) == "cluster-1"
        losses = [5.0 - number / 10 for number in range(7)] if falling else RISING
        return with_losses(losses)(0, message, reply)

    grid = LocalGrid(run_config, 6, tamper=tamper)
    grid.online.discard(105)
    strategy, _ = start_run(run_config, grid, kind=Later)
    state = strategy.state
    assert len(state.clusters) > 1
    assert state.best["cluster-0"].stopped_in == 4
    assert state.best["cluster-1"].stopped_in is None
    last = state.history[6].devices
    assert {d.cluster for d in last.values() if d.rank} == {"cluster-1"}
    newcomer = state.cluster_of(105).name
    assert last[105].keeps == ("own" if newcomer == "cluster-1" else "cluster")
    assert state.kept_models().keys() == set(grid.nodes)
    # Who was told when its cluster stopped is not asked again.
    told = {n for n, d in state.history[4].devices.items() if d.keeps}
    assert told
    assert not told & last.keys()


def test_devices_that_measured_both_rounds_are_compared() -> None:
    adapter = initial_adapter({"x": (2, 2)}, rank=1, seed=0)
    best = Best(round=1, adapter=adapter, losses={1: (2.0, 10), 2: (4.0, 30)})
    # Device 3 would lower the mean, and device 1 is gone.
    assert best.change({2: (4.5, 20), 3: (0.1, 1000)}) == pytest.approx(0.5)
    assert best.change({1: (1.0, 30), 2: (4.4, 10)}) == pytest.approx(-26 / 40)
    assert best.change({3: (1.0, 10)}) is None


@pytest.mark.parametrize(("before", "after"), [(2.0, 1e6), (2.0, 1000.0), (1e6, 0.0)])
def test_one_device_does_not_decide_for_the_others(before: float, after: float) -> None:
    adapter = initial_adapter({"x": (2, 2)}, rank=1, seed=0)
    others = dict.fromkeys(range(9), (2.0, 100))
    better = -0.5 if after > before else 0.5
    now = {node: (loss + better, tokens) for node, (loss, tokens) in others.items()}
    best = Best(round=1, adapter=adapter, losses={**others, 9: (before, 32768)})
    change = best.change({**now, 9: (after, 32768)})
    assert change is not None
    # It weighs as much as four of the others, and changes by a nat.
    assert change == pytest.approx((9 * better - 4 * np.sign(better)) / 13)
    assert change * better > 0


def judged(fleet: Fleet, losses: dict[int, float]) -> Best:
    """Return a cluster's best round after one more, in which some devices measured these losses."""
    strategy, state = fleet.strategy, fleet.strategy.state
    record = RoundRecord(round=len(state.history) + 1)
    record.clusters = {"cluster-0": ClusterRound(moved=True)}
    record.devices = {
        node: DeviceRound(cluster="cluster-0", validation_loss=loss, validation_tokens=100)
        for node, loss in losses.items()
    }
    state.history.append(record)
    state.cluster_adapters["cluster-0"] = state.cluster_adapters["cluster-0"].scaled(2.0)
    judge(strategy, Round(record=record, num_rounds=99))
    return state.best["cluster-0"]


def test_a_round_without_a_common_device_leaves_the_best_one_and_the_patience() -> None:
    fleet = Fleet([8] * 4)
    fleet.strategy.participation = Participation(patience=2, keep_uploads=2)
    first = judged(fleet, {0: 2.0, 1: 3.0})
    assert judged(fleet, {0: 2.1, 1: 3.1}).waited == 1
    for uncompared in (1, 2):
        best = judged(fleet, {2: 0.5, 3: 9.0})
        assert best.adapter is first.adapter
        assert (best.round, best.waited, best.stopped_in) == (1, 1, None)
        assert best.uncompared == uncompared
    stopped = judged(fleet, {1: 3.2})
    assert (stopped.round, stopped.stopped_in, stopped.uncompared) == (1, 5, 0)


def test_the_comparison_begins_anew_once_all_who_measured_the_best_round_are_gone() -> None:
    fleet = Fleet([8] * 4)
    fleet.strategy.participation = Participation(patience=2, keep_uploads=2)
    rounds = [judged(fleet, {int(number > 0): 2.0 + number}).round for number in range(5)]
    assert rounds == [1, 1, 1, 4, 4]


def test_a_share_of_the_devices_evaluates_and_it_is_the_same_in_every_round(
    run_config: dict[str, ConfigValue],
) -> None:
    run_config |= {"rounds": 3, "fraction-evaluate": 0.5}
    grid = LocalGrid(run_config, 6)
    start_run(run_config, grid)
    asked = [
        {m.metadata.dst_node_id for m in sent(grid, "evaluate") if number_of(m) == number}
        for number in range(4)
    ]
    assert len(asked[0]) == 3
    assert asked == [asked[0]] * 4


def test_a_run_that_was_killed_stops_where_the_unbroken_one_does(
    run_config: dict[str, ConfigValue], tmp_path: Path
) -> None:
    tamper = with_losses(RISING)
    unbroken, _ = start_run(run_config, LocalGrid(run_config, 3, tamper=tamper))
    # Killed between the best round and the stop, and after the stop.
    for finished in (3, 4):
        output = str(tmp_path / f"broken-{finished}")
        config = {**run_config, "output": output}
        grid = LocalGrid(config, 3, tamper=tamper)

        class Killed(Exception):
            pass

        class Mortal(FloeStrategy):
            def save(self, server_round: int) -> None:
                super().save(server_round)
                if server_round == finished:  # noqa: B023
                    raise Killed

        with pytest.raises(Killed):
            start_run(config, grid, kind=Mortal)
        again = {**config, "resume": output}
        other = LocalGrid(again, 3, first=7000, states=grid.states, tamper=tamper)
        resumed, _ = start_run(again, other)
        ours, theirs = unbroken.state.best["cluster-0"], resumed.state.best["cluster-0"]
        assert (theirs.round, theirs.stopped_in, theirs.waited) == (2, 4, 2)
        assert [loss for loss, _ in theirs.losses.values()] == pytest.approx(
            [loss for loss, _ in ours.losses.values()]
        )
        np.testing.assert_allclose(dense(theirs.adapter), dense(ours.adapter), atol=1e-6)
        assert len(resumed.state.history) == len(unbroken.state.history) == 5
        assert sorted(resumed.state.kept_models().values()) == sorted(
            unbroken.state.kept_models().values()
        )


def write_letters(path: Path, letters: str) -> Path:
    generator = np.random.default_rng(len(letters))
    rows = [
        {"prompt": f"{index}:", "response": " " + "".join(generator.choice(list(letters), 12))}
        for index in range(60)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_a_device_with_odd_data_keeps_what_it_has_learned_alone_and_writes_it(
    run_config: dict[str, ConfigValue], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run_config |= {"rounds": 3, "local-steps": 10, "max-examples": 60, "eval-examples": 8}
    nodes: list[dict[str, Any]] = [
        {
            "data-path": str(
                write_letters(tmp_path / f"{node}.jsonl", "XYZ" if node == 4 else "abc")
            ),
            "device-adapter": str(tmp_path / f"kept-{node}"),
        }
        for node in range(5)
    ]
    grid = LocalGrid(run_config, 5, node_configs=nodes)
    strategy, _ = start_run(run_config, grid)
    kept = strategy.state.kept_models()
    assert kept[104] == "alone"
    config = json.loads((tmp_path / "kept-4" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 8
    for node in range(5):
        names = {path.name for path in (tmp_path / f"kept-{node}").iterdir()}
        assert names == {"adapter_config.json", "adapter_model.safetensors"}
    state = strategy.state
    upload = state.uploads[104]
    own = load_state(
        grid.states[4],
        run=state.run,
        began=upload.began,
        counted=upload.counted,
        shapes=state.initial.shapes,
    )
    assert own is not None
    written = AdapterState.from_peft(
        load_file(tmp_path / "kept-4" / "adapter_model.safetensors"), scaling=1.0
    )
    np.testing.assert_allclose(dense(written), dense(own.own), atol=1e-5)
    base = AutoModelForCausalLM.from_pretrained(str(run_config["model"]))
    assert PeftModel.from_pretrained(base, str(tmp_path / "kept-4"))
