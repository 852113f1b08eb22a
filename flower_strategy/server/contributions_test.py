"""What devices stand for in their clusters' means, against dense matrices, through whole runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flower_strategy import FloeStrategy, client, peft_mod
from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.adapters.mean import AdapterMean
from flower_strategy.client_app import app as floe_app
from flower_strategy.client_app import local_data
from flower_strategy.config import ConfigValue
from flower_strategy.device.training import TrainingOutcome, train_adapter
from flower_strategy.messages import ARRAYS_KEY, BEGAN_KEY, METRICS_KEY, read_adapter
from flower_strategy.server.uploads import Upload
from flower_strategy.testing.grids import LocalGrid, start_run

Dense = dict[str, np.ndarray[Any, Any]]


@pytest.fixture
def run_config(run_config: dict[str, ConfigValue]) -> dict[str, ConfigValue]:
    return {
        **run_config,
        "rounds": 3,
        "local-steps": 2,
        "fill-deadline": False,
        "batch-size": 2,
        "max-length": 48,
        "max-examples": 20,
        "eval-examples": 2,
        "silhouette": 1.0,
        "rank-correction": False,
        # The mean's full rank: nothing is cut off.
        "export-rank": 32,
        "keep-checkpoints": 0,
        "fraction-evaluate": 0.0,
    }


def dense(adapter: AdapterState) -> Dense:
    return {name: adapter.delta(name).astype(np.float64) for name in adapter.layers}


class Ledger:
    """Follows what every device has sent, and says what the clusters' adapters must be."""

    def __init__(self) -> None:
        self.stands: dict[int, Dense] = {}
        self.anchors: dict[tuple[int, int], Dense] = {}
        self.began: dict[int, int] = {}
        self.steps: dict[int, int] = {}
        self.replied: set[int] = set()

    def hear(self, node: int, reply: Message, cluster: Dense, server_round: int) -> None:
        metrics = reply.content.metric_records[METRICS_KEY]
        adapter = read_adapter(
            reply.content.array_records[ARRAYS_KEY], scaling=float(str(metrics["scaling"]))
        )
        own = dense(adapter)
        self.steps[node] = self.steps.get(node, 0) + int(str(metrics.get("steps", 2)))
        self.replied.add(node)
        if BEGAN_KEY in metrics:
            began = int(str(metrics[BEGAN_KEY]))
            self.began[node] = began
            if began == server_round:
                self.anchors[node, began] = cluster
            anchor = self.anchors[node, began]
            own = {name: anchor[name] + change for name, change in own.items()}
        self.stands[node] = own

    def mean(self, nodes: set[int]) -> Dense:
        total = sum(self.steps[node] for node in nodes)
        return {
            name: np.sum(
                [self.steps[node] / total * self.stands[node][name] for node in nodes], axis=0
            )
            for name in next(iter(self.stands.values()))
        }


class Run:
    """A run whose clusters' adapters are compared with the ledger's after every round."""

    def __init__(
        self,
        run_config: dict[str, ConfigValue],
        nodes: int,
        *,
        before: Callable[[int, LocalGrid], None] = lambda number, grid: None,
        counts: Callable[[int, int], bool] = lambda number, node: True,
        client_app: ClientApp = floe_app,
    ) -> None:
        ledger = self.ledger = Ledger()
        self.checked: list[int] = []
        self.clusters: list[Dense] = []
        checked, clusters = self.checked, self.clusters

        def listen(node: int, message: Message, reply: Message) -> Message:
            if message.metadata.message_type == "train" and not reply.has_error():
                number = int(str(message.content.config_records["config"]["server-round"]))
                home = strategies[0].state.cluster_of(node).name
                cluster = dense(strategies[0].state.cluster_adapters[home])
                ledger.hear(node, reply, cluster, number)
            return reply

        local = self.grid = LocalGrid(run_config, nodes, tamper=listen, client_app=client_app)
        strategies: list[FloeStrategy] = []

        class Checked(FloeStrategy):
            def admit(self, grid: Any, timeout: float) -> None:
                strategies[:] = [self]
                before(self.round.record.round, local)
                super().admit(grid, timeout)

            def move_adapters(self, means: dict[str, AdapterMean]) -> None:
                super().move_adapters(means)
                number = self.round.record.round
                for cluster in self.state.clusters:
                    if not self.round.record.clusters[cluster.name].moved:
                        continue
                    members = {
                        node
                        for node in set(cluster.members) & set(ledger.stands)
                        if node in ledger.replied or counts(number, node)
                    }
                    expected = ledger.mean(members)
                    found = dense(self.state.cluster_adapters[cluster.name])
                    for name, change in expected.items():
                        length = max(float(np.linalg.norm(change)), 1e-6)
                        assert np.linalg.norm(found[name] - change) <= 1e-4 * length
                    checked.append(number)
                    clusters.append(found)
                ledger.replied.clear()

        self.strategy, _ = start_run(run_config, self.grid, kind=Checked)

    def upload(self, node: int) -> Upload:
        return self.strategy.state.uploads[node]


def length(change: Dense) -> float:
    return float(np.sqrt(sum(np.square(each).sum() for each in change.values())))


def distance(one: Dense, other: Dense) -> float:
    return length({name: one[name] - other[name] for name in one})


def test_all_devices_own_adapters_are_averaged_by_their_steps(
    run_config: dict[str, ConfigValue],
) -> None:
    run = Run({**run_config, "alpha": 4.0}, 3)
    assert run.checked == [1, 2, 3]
    assert set(run.ledger.began.values()) == {1}
    assert run.strategy.state.steps == {100: 6, 101: 6, 102: 6}
    assert [run.upload(node).move for node in (100, 101, 102)] == pytest.approx([6 * 0.02] * 3)
    lengths = [length(cluster) for cluster in run.clusters]
    assert lengths[0] < lengths[1] < lengths[2]


def test_nothing_but_a_description_travels_down_first_and_eight_bits_later(
    run_config: dict[str, ConfigValue],
) -> None:
    run = Run({**run_config, "rounds": 2}, 2)
    first, second = run.strategy.state.history[1:]
    assert [device.bytes_down for device in first.devices.values()] == [0, 0]
    for node, device in second.devices.items():
        numbers = sum(sum(shape) for shape in run.strategy.state.initial.shapes.values())
        rank = run.strategy.state.decisions[node].rank or 0
        assert device.bytes_up == rank * (numbers + 4 * 14)
        assert device.bytes_down == 32 * (numbers + 4 * 14)


def test_devices_that_are_not_drawn_count_with_what_they_sent_last(
    run_config: dict[str, ConfigValue],
) -> None:
    run = Run({**run_config, "rounds": 5, "fraction-train": 0.34, "keep-uploads": 0}, 6)
    assert run.checked == [1, 2, 3, 4, 5]
    kept = [record.clusters["cluster-0"].kept for record in run.strategy.state.history[1:]]
    assert kept[0] == 0
    assert max(kept) > 0
    assert all(upload.missed == 0 for upload in run.strategy.state.uploads.values())


def test_a_device_that_loses_its_state_begins_on_top_of_its_cluster(
    run_config: dict[str, ConfigValue],
) -> None:
    def before(number: int, grid: LocalGrid) -> None:
        if number == 3:
            grid.states.pop(1)

    run = Run({**run_config, "rounds": 4}, 3, before=before)
    assert run.checked == [1, 2, 3, 4]
    assert run.ledger.began == {100: 1, 101: 3, 102: 1}
    upload = run.upload(101)
    assert (upload.began, bool(upload.anchor)) == (3, True)
    # What was asked for since it began, not before.
    assert upload.move == pytest.approx(4 * 0.02)
    assert not run.upload(100).anchor


def test_a_run_in_which_all_lose_their_state_goes_on_from_its_adapter(
    run_config: dict[str, ConfigValue],
) -> None:
    def before(number: int, grid: LocalGrid) -> None:
        if number == 3:
            grid.states.clear()

    run = Run({**run_config, "rounds": 4}, 3, before=before)
    whole = Run({**run_config, "rounds": 4}, 3)
    assert set(run.ledger.began.values()) == {3}
    second, third = run.clusters[1], run.clusters[2]
    # The round moves the adapter by what it has trained, not back to zero.
    moved = distance(third, second)
    assert moved < 2 * distance(whole.clusters[2], whole.clusters[1])
    assert length(third) > 0.7 * length(whole.clusters[2])


def away_for_three_rounds(number: int, grid: LocalGrid) -> None:
    """Have node 101 away in rounds 2 to 4, of three nodes."""
    grid.online = {100, 102} if number in (2, 3, 4) else {100, 101, 102}


def test_a_device_that_was_away_counts_until_it_has_missed_too_many_rounds(
    run_config: dict[str, ConfigValue],
) -> None:
    # It has missed two rounds once the third is counted in.
    run = Run(
        {**run_config, "rounds": 5, "keep-uploads": 2},
        3,
        before=away_for_three_rounds,
        counts=lambda number, node: node != 101 or number < 4,
    )
    assert run.checked == [1, 2, 3, 4, 5]
    # It goes on with what it had, and counts in full again.
    assert run.ledger.began[101] == 1
    assert run.upload(101).missed == 0
    assert run.strategy.state.steps == {100: 10, 101: 4, 102: 10}


def test_a_device_that_is_back_after_too_many_rounds_begins_at_its_clusters_adapter(
    run_config: dict[str, ConfigValue], monkeypatch: pytest.MonkeyPatch
) -> None:
    begins: dict[tuple[int, int], Dense] = {}

    def noted(base: Any, own: AdapterState, *others: Any, **options: Any) -> TrainingOutcome:
        place = options["server_round"], options["order_seed"][-1]
        begins[place] = dense(own)
        if options["fixed"] is not None:
            fixed = dense(options["fixed"])
            begins[place] = {name: fixed[name] + change for name, change in dense(own).items()}
        return train_adapter(base, own, *others, **options)

    monkeypatch.setattr("flower_strategy.client.train_adapter", noted)

    run = Run(
        {**run_config, "rounds": 5, "keep-uploads": 1},
        3,
        before=away_for_three_rounds,
        counts=lambda number, node: node != 101 or number < 3,
    )
    assert run.checked == [1, 2, 3, 4, 5]
    assert run.ledger.began[101] == 1
    fourth = run.clusters[3]
    # Eight bits of both adapters are all that separates them.
    for place in (0, 1):
        assert distance(begins[5, place], fourth) < 0.02 * length(fourth)


def test_a_newcomer_stands_on_its_clusters_adapter(run_config: dict[str, ConfigValue]) -> None:
    def before(number: int, grid: LocalGrid) -> None:
        grid.online = {100, 101, 102} if number >= 2 else {100, 101}

    run = Run(run_config, 3, before=before)
    assert run.checked == [1, 2, 3]
    assert run.ledger.began == {100: 1, 101: 1, 102: 2}
    assert run.strategy.state.steps[102] == 4


def test_a_device_whose_reply_is_refused_counts_as_before_and_goes_on(
    run_config: dict[str, ConfigValue],
) -> None:
    run = Run({**run_config, "rounds": 2}, 3)
    heard = run.ledger.stands[101]
    again = {**run_config, "rounds": 3}

    def tamper(node: int, message: Message, reply: Message) -> Message:
        number = message.content.config_records["config"].get("server-round", 0)
        if node == 101 and message.metadata.message_type == "train" and number == 3:
            reply.content.metric_records[METRICS_KEY]["train-loss"] = float("nan")
        return reply

    grid = LocalGrid(again, 3, tamper=tamper)
    strategy, _ = start_run(again, grid)
    record = strategy.state.history[3]
    assert [refusal.node for refusal in record.refused] == [101]
    assert (record.clusters["cluster-0"].replies, record.clusters["cluster-0"].kept) == (2, 1)
    assert strategy.state.uploads[101].missed == 1
    assert strategy.state.steps == {100: 6, 101: 4, 102: 6}
    # The same seed: what it sent in the second round is what counts in the third.
    own = strategy.uploads.read(
        strategy.state.uploads[101].file, scaling=strategy.state.uploads[101].scaling
    )
    assert distance(dense(own), heard) <= 1e-3 * length(heard)


def test_a_lost_reply_after_a_round_without_a_mean_costs_a_device_nothing(
    run_config: dict[str, ConfigValue],
) -> None:
    began: list[Any] = []

    def tamper(node: int, message: Message, reply: Message) -> Message:
        if node == 100 and message.metadata.message_type == "train":
            metrics = reply.content.metric_records[METRICS_KEY]
            began.append(metrics[BEGAN_KEY])
            if message.content.config_records["config"]["server-round"] == 3:
                metrics["train-loss"] = float("nan")
        return reply

    run_config |= {"rounds": 4, "min-replies": 2}
    grid = LocalGrid(run_config, 3, tamper=tamper)

    class Alone(FloeStrategy):
        def admit(self, _: Any, timeout: float) -> None:
            grid.online = {100} if self.round.record.round == 2 else {100, 101, 102}
            super().admit(grid, timeout)

    strategy, _ = start_run(run_config, grid, kind=Alone)
    moved = [record.clusters["cluster-0"].moved for record in strategy.state.history[1:]]
    assert moved == [True, False, True, True]
    assert began == [1, 1, 1, 1]


def test_a_device_moves_to_another_cluster_with_what_it_has_learned(
    run_config: dict[str, ConfigValue],
) -> None:
    states: list[FloeStrategy] = []

    class Moving(FloeStrategy):
        def admit(self, grid: Any, timeout: float) -> None:
            super().admit(grid, timeout)
            states[:] = [self]
            if self.round.record.round == 2:
                (only,) = self.state.clusters
                adapter = self.state.cluster_adapters[only.name]
                self.state.clusters = [
                    replace(only, members=(100, 101)),
                    replace(only, name="cluster-1", members=(102,)),
                ]
                self.state.cluster_adapters = {only.name: adapter, "cluster-1": adapter}

    grid = LocalGrid(run_config, 3)
    strategy, _ = start_run(run_config, grid, kind=Moving)
    state = strategy.state
    assert {name: upload.began for name, upload in state.uploads.items()} == dict.fromkeys(
        (100, 101, 102), 1
    )
    own = strategy.uploads.read(state.uploads[102].file, scaling=state.uploads[102].scaling)
    # Alone in its cluster, its own adapter is the cluster's.
    expected, found = dense(own), dense(state.cluster_adapters["cluster-1"])
    assert distance(found, expected) <= 1e-4 * length(expected)


def _of_ones_own(message: Message, context: Context) -> Message:
    """Move every B a little, as training does, and forget about it."""
    arrays = {
        name: Array(array.numpy() + np.float32(0.01 * name.endswith("lora_B.weight")))
        for name, array in message.content.array_records[ARRAYS_KEY].items()
    }
    metrics = MetricRecord({"train_loss": 1.0, "num-examples": 4})
    content = RecordDict({ARRAYS_KEY: ArrayRecord(arrays), METRICS_KEY: metrics})
    return Message(content=content, reply_to=message)


def mixed_app(stateless: set[int]) -> ClientApp:
    """Return an app whose nodes keep state, but for some that train as a client of FedAvg does."""
    app = ClientApp()

    @app.query("profile")
    def profile(message: Message, context: Context) -> Message:
        keeps = context.node_id not in stateless
        return client.profile(message, context, data=local_data(context), keeps_state=keeps)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return client.evaluate(message, context, data=local_data(context))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_id in stateless:
            return peft_mod(message, context, _of_ones_own)
        return client.train(message, context, data=local_data(context))

    return app


@pytest.mark.parametrize("stateless", [{101}, {100, 101, 102}])
def test_a_client_without_state_stands_for_what_it_returns(
    run_config: dict[str, ConfigValue], stateless: set[int]
) -> None:
    run = Run(run_config, 3, client_app=mixed_app(stateless))
    assert run.checked == [1, 2, 3]
    assert run.strategy.state.stateless == stateless
    assert set(run.strategy.state.uploads) == {100, 101, 102} - stateless
    numbers = sum(sum(shape) for shape in run.strategy.state.initial.shapes.values())
    for record in run.strategy.state.history[2:]:
        for node, device in record.devices.items():
            # It returns what it gets, so it gets float32.
            rank = device.rank or 0
            sizes = 4 * numbers, 4 * numbers
            if node not in stateless:
                sizes = numbers + 4 * 14, (numbers + 4 * 14) * 32 // rank
            assert (device.bytes_up, device.bytes_down) == (rank * sizes[0], rank * sizes[1])


def test_a_claim_of_more_steps_than_asked_counts_for_those_asked(
    run_config: dict[str, ConfigValue],
) -> None:
    def tamper(node: int, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "train" and node == 100:
            reply.content.metric_records[METRICS_KEY].update(MetricRecord({"steps": 1000}))
        return reply

    run_config |= {"rounds": 2}
    strategy, _ = start_run(run_config, LocalGrid(run_config, 2, tamper=tamper))
    assert strategy.state.steps == {100: 4, 101: 4}


def test_an_adapter_that_began_in_a_round_that_the_server_does_not_know_is_refused(
    run_config: dict[str, ConfigValue],
) -> None:
    def tamper(node: int, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "train" and node == 100:
            reply.content.metric_records[METRICS_KEY].update(MetricRecord({BEGAN_KEY: 7}))
        return reply

    run_config |= {"rounds": 1}
    strategy, _ = start_run(run_config, LocalGrid(run_config, 2, tamper=tamper))
    (refusal,) = strategy.state.history[1].refused
    assert refusal.reason == "its adapter began in round 7; the server knows none."
