"""How a run adapts from round to round: ranks, clusters, late and odd replies."""

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from floe_plugins.errors import ConfigError
from flower_strategy import FloeStrategy
from flower_strategy.config import ConfigValue
from flower_strategy.messages import ARRAYS_KEY, METRICS_KEY, read_adapter
from flower_strategy.profile import EMBEDDING_KEY, PROFILE_KEY
from flower_strategy.report.page import write_report
from flower_strategy.run_folder import load_history
from flower_strategy.server.admission import NoDevicesError
from flower_strategy.server.checkpoint import load_checkpoint, save_checkpoint
from flower_strategy.testing.grids import LocalGrid, Tamper, start_run


@pytest.fixture
def run_config(run_config: dict[str, ConfigValue]) -> dict[str, ConfigValue]:
    return {
        **run_config,
        "local-steps": 1,
        "fill-deadline": False,
        "batch-size": 2,
        "max-length": 48,
        "max-examples": 20,
        "eval-examples": 2,
        "devices": "fast:4:1:1",
        "silhouette": 0.5,
        "separation": 3.0,
        "round-timeout": 5.0,
        "keep-checkpoints": 0,
    }


def run(
    run_config: dict[str, ConfigValue],
    *,
    nodes: int = 3,
    tamper: Tamper | None = None,
    between: Callable[[int, LocalGrid], None] | None = None,
) -> tuple[FloeStrategy, LocalGrid]:
    grid = LocalGrid(run_config, nodes, tamper=tamper)
    strategy, _ = start_run(
        run_config,
        grid,
        after_round=lambda number: between(number, grid) if between is not None else None,
    )
    return strategy, grid


def ranks_of(strategy: FloeStrategy, node: int) -> list[int | None]:
    return [
        record.devices[node].rank if node in record.devices else None
        for record in strategy.state.history[1:]
    ]


def with_seconds(slow_rounds: range, node: int) -> Tamper:
    """Profiles report 1 s per step at any rank; one device trains 2.5 times slower for a while."""

    def tamper(sender: int, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "query.profile":
            numbers = reply.content.metric_records[PROFILE_KEY]
            numbers["step-seconds"] = [1.0, 1.0 + 6 * 0.25]
            numbers["bandwidth"] = float("inf")
        if message.metadata.message_type == "train":
            config = message.content.config_records["config"]
            rank = (
                reply.content.array_records[ARRAYS_KEY]["model.layers.0.mlp.up_proj.lora_A"]
                .numpy()
                .shape[0]
            )
            slow = sender == node and config["server-round"] in slow_rounds
            seconds = (1.0 + 0.25 * (rank - 2)) * (2.5 if slow else 1.0)
            reply.content.metric_records[METRICS_KEY]["seconds"] = seconds
        return reply

    return tamper


def test_a_device_that_slows_down_loses_rank_within_two_rounds_and_gets_it_back(
    run_config: dict[str, ConfigValue],
) -> None:
    run_config |= {"rounds": 7, "round-deadline": 2.6, "fraction-evaluate": 0.0}
    tamper = with_seconds(range(2, 4), node=101)
    strategy, _ = run(run_config, tamper=tamper)
    # Slow in rounds 2 and 3; two rounds at its old speed convince the server.
    assert ranks_of(strategy, 101) == [8, 8, 2, 2, 2, 8, 8]
    assert ranks_of(strategy, 100) == [8] * 7
    assert any("rank 8 -> rank 2, since rank 4 needs" in n for n in strategy.state.history[2].notes)


def test_the_ranks_stay_where_correction_is_off(run_config: dict[str, ConfigValue]) -> None:
    run_config |= {"rounds": 4, "round-deadline": 2.6, "rank-correction": False}
    strategy, _ = run(run_config, tamper=with_seconds(range(1, 9), node=101))
    assert ranks_of(strategy, 101) == [8] * 4


def test_a_device_that_affords_no_rank_is_left_out_and_measured_again_later(
    run_config: dict[str, ConfigValue],
) -> None:
    asked: list[tuple[int, bool]] = []

    def tamper(node: int, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "query.profile" and node == 101:
            refresh = bool(message.content.config_records["config"]["refresh"])
            asked.append((len(asked), refresh))
            memory = 10**12 if refresh else 10
            reply.content.metric_records[PROFILE_KEY]["memory-bytes"] = memory
        return reply

    run_config |= {"rounds": 4, "readmit-every": 2, "rank-correction": False}
    strategy, _ = run(run_config, tamper=tamper)
    assert ranks_of(strategy, 101)[0] is None
    assert None not in ranks_of(strategy, 101)[1:]
    assert asked == [(0, False), (1, True)]
    assert "needs" in strategy.state.history[1].left_out[101]
    assert 101 not in strategy.state.history[2].left_out


def test_an_update_far_longer_than_what_was_asked_is_refused(
    run_config: dict[str, ConfigValue],
) -> None:
    def tamper(node: int, message: Message, reply: Message) -> Message:
        # The first reply of the run is the odd one.
        if message.metadata.message_type == "train" and node == 100:
            arrays = reply.content.array_records[ARRAYS_KEY]
            adapter = read_adapter(arrays, scaling=1.0).scaled(1e4)
            reply.content[ARRAYS_KEY] = adapter.to_arrays()
        return reply

    run_config |= {"rounds": 1, "silhouette": 1.0}
    strategy, _ = run(run_config, nodes=5, tamper=tamper)
    record = strategy.state.history[1]
    assert record.clusters["cluster-0"].replies == 4
    (refusal,) = record.refused
    assert refusal.node == 100
    assert "times what the steps and learning rates asked for make" in refusal.reason
    lenient, _ = run({**run_config, "norm-limit": 0.0}, nodes=5, tamper=tamper)
    assert lenient.state.history[1].clusters["cluster-0"].replies == 5


def test_late_replies_do_not_stall_a_round_and_cost_rank(
    run_config: dict[str, ConfigValue],
) -> None:
    def tamper(node: int, message: Message, reply: Message) -> Message | None:
        late = message.metadata.message_type == "train" and node == 102
        return None if late else reply

    run_config |= {"rounds": 1, "quorum": 0.6, "quorum-grace": 0.3, "round-timeout": 600.0}
    strategy, _ = run(run_config, tamper=tamper)
    record = strategy.state.history[1]
    assert record.seconds < 60
    (refusal,) = record.refused
    assert (refusal.node, refusal.late) == (102, True)
    assert "the quorum of 2 of 3" in refusal.reason
    assert record.devices[100].train_loss is not None
    assert strategy.state.slowdowns[102].factor == 2.0


def test_devices_are_clustered_again_when_their_texts_change(
    run_config: dict[str, ConfigValue],
) -> None:
    basis = np.eye(64, dtype=np.float32)
    homes = {100: 0, 101: 0, 102: 1, 103: 1, 104: 1, 105: 1}
    drifted: set[int] = set()

    def tamper(node: int, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "query.profile":
            arrays = reply.content.array_records[EMBEDDING_KEY]
            direction = 2 if node in drifted else homes[node]
            vector = basis[direction] + 0.01 * basis[node - 50]
            vector /= np.linalg.norm(vector)
            arrays["embedding"] = type(arrays["embedding"])(vector.astype(np.float32))
        return reply

    def between(number: int, grid: LocalGrid) -> None:
        if number == 1:
            drifted.update((104, 105))

    run_config |= {"rounds": 3, "recluster-every": 2}
    strategy, grid = run(run_config, nodes=6, tamper=tamper, between=between)
    assert {c.name: c.members for c in strategy.state.clusters} == {
        "cluster-0": (100, 101),
        "cluster-1": (102, 103),
        "cluster-2": (104, 105),
    }
    notes = strategy.state.history[3].notes
    assert "cluster-2 is new and begins with the adapter of cluster-1" in notes
    queries = [m for m in grid.sent if m.metadata.message_type == "query.profile"]
    assert len(queries) == 12
    assert not any(m.content.config_records["config"]["refresh"] for m in queries)


def test_a_small_cluster_joins_the_nearest(run_config: dict[str, ConfigValue]) -> None:
    run_config |= {"rounds": 1, "silhouette": 0.0, "separation": 0.0, "min-cluster-size": 3}
    strategy, _ = run(run_config, nodes=5)
    assert all(len(cluster.members) >= 3 for cluster in strategy.state.clusters)


def test_devices_can_be_clustered_by_the_b_matrices_that_they_train_first(
    run_config: dict[str, ConfigValue],
) -> None:
    run_config |= {
        "rounds": 2,
        "cluster-by": "adapter",
        "silhouette": 0.05,
        "local-steps": 4,
        "mix": 0.0,
        "tasks": "code,arithmetic",
    }
    strategy, _ = run(run_config, nodes=6)
    first, second = strategy.state.history[1], strategy.state.history[2]
    assert set(first.clusters) == {"cluster-0"}
    labels = [
        {strategy.state.profiles[node].label for node in cluster.members}
        for cluster in strategy.state.clusters
    ]
    assert sorted(labels, key=str) == [{"arithmetic"}, {"code"}]
    assert set(second.clusters) == {cluster.name for cluster in strategy.state.clusters}
    with pytest.raises(ConfigError, match="cannot be repeated every 2 rounds"):
        run({**run_config, "recluster-every": 2})


def test_training_goes_on_when_all_devices_were_too_slow(
    run_config: dict[str, ConfigValue],
) -> None:
    def tamper(node: int, message: Message, reply: Message) -> Message:
        reply = with_seconds(range(0), node=-1)(node, message, reply) or reply
        if message.metadata.message_type == "train":
            reply.content.metric_records[METRICS_KEY]["seconds"] = 900.0
        return reply

    # Left out after every round, and measured again at once, since no other node is connected.
    run_config |= {"rounds": 3, "round-deadline": 2.6, "readmit-every": 100}
    strategy, _ = run(run_config, nodes=2, tamper=tamper)
    asked = [sum(c.asked for c in record.clusters.values()) for record in strategy.state.history]
    assert asked == [0, 2, 2, 2]
    assert all(decision.rank is None for decision in strategy.state.decisions.values())


def test_a_run_that_begins_with_too_few_nodes_says_so(run_config: dict[str, ConfigValue]) -> None:
    run_config |= {"rounds": 1, "min-nodes": 4, "round-timeout": 0.5}
    strategy, _ = run(run_config)
    assert "The run begins with 3 nodes of the 4 to wait for" in strategy.state.history[0].notes
    assert strategy.state.history[1].clusters["cluster-0"].replies == 3


def test_a_run_waits_while_all_its_devices_are_away(run_config: dict[str, ConfigValue]) -> None:
    def between(number: int, grid: LocalGrid) -> None:
        if number == 1:
            away, grid.online = grid.online, set()
            threading.Timer(1.0, lambda: setattr(grid, "online", away)).start()

    strategy, _ = run({**run_config, "round-timeout": 60.0}, between=between)
    asked = [sum(c.asked for c in record.clusters.values()) for record in strategy.state.history]
    assert asked == [0, 3, 3]


def test_a_run_whose_devices_do_not_come_back_ends_with_what_it_has(
    run_config: dict[str, ConfigValue],
) -> None:
    def between(number: int, grid: LocalGrid) -> None:
        if number == 1:
            grid.online = set()

    run_config |= {"round-timeout": 0.5, "keep-checkpoints": 1}
    with pytest.raises(NoDevicesError, match="No device can take part"):
        run(run_config, between=between)
    folder = Path(str(run_config["output"]))
    rounds = load_history(folder)["rounds"]
    assert [record["round"] for record in rounds] == [0, 1, 2]
    assert rounds[2]["notes"][-1].startswith("No device can take part")
    # The report shows the loss of the last round that measured one.
    shown = write_report(folder)["headline"]
    assert shown["loss_after"] is not None
    assert shown["rounds"] == 2
    assert load_checkpoint(folder).round == 1


def test_a_second_run_into_the_same_folder_is_refused_at_once(
    run_config: dict[str, ConfigValue],
) -> None:
    refused: list[int] = []

    def between(number: int, grid: LocalGrid) -> None:
        with pytest.raises(ConfigError, match="Another run writes to the output folder"):
            run(run_config)
        refused.append(number)

    run_config |= {"rounds": 1, "keep-checkpoints": 1}
    run(run_config, between=between)
    assert refused == [0, 1]
    assert load_checkpoint(str(run_config["output"])).round == 1


def test_a_disk_that_is_full_costs_a_checkpoint_and_not_the_run(
    run_config: dict[str, ConfigValue], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    # Filling a disk needs root: instead, the call raises what a full disk would raise.
    def full(*arguments: Any, **options: Any) -> Path:
        calls.append(options["server_round"])
        if calls[-1] == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save_checkpoint(*arguments, **options)

    monkeypatch.setattr("flower_strategy.strategy.save_checkpoint", full)
    strategy, _ = run({**run_config, "keep-checkpoints": 2})
    assert calls == [0, 1, 2]
    assert any("checkpoint not written" in note for note in strategy.state.history[1].notes)
    assert load_checkpoint(str(run_config["output"])).round == 2


def test_absurd_numbers_of_one_node_do_not_end_the_run(run_config: dict[str, ConfigValue]) -> None:
    def tamper(node: int, message: Message, reply: Message) -> Message:
        kind = message.metadata.message_type
        if node == 100 and kind != "query.profile":
            key = {"train": "seconds", "evaluate": "held-out-loss"}[kind]
            reply.content.metric_records[METRICS_KEY][key] = 1e308
        if node == 101 and kind == "query.profile":
            reply.content.metric_records[PROFILE_KEY]["upload-per-rank"] = 1e308
        return reply

    strategy, _ = run(run_config, tamper=tamper)
    refused = {(r.node, r.stage) for record in strategy.state.history for r in record.refused}
    assert refused == {(100, "train"), (100, "evaluate"), (101, "profile")}
    assert len(load_history(str(run_config["output"]))["rounds"]) == 3
