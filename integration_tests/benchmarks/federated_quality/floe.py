"""Floe itself: `FloeStrategy` and the product's client on a grid in this process.

Messages take virtual time, by their bytes; a device's steps are those that the server asks for.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import cast

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)

from flower_strategy import client
from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.adapters.stacking import stacked
from flower_strategy.device.kept_state import load_state
from flower_strategy.messages import (
    CONFIG_KEY,
    DEADLINE_KEY,
    KEEPS,
    METRICS_KEY,
    PROFILE_QUERY,
    RANK_KEY,
    message_bytes,
    received_adapter,
)
from flower_strategy.strategy import FloeStrategy
from flower_strategy.testing.grids import InProcessGrid
from integration_tests.benchmarks.federated_quality.means import energy_above
from integration_tests.benchmarks.federated_quality.world import (
    BudgetSpentError,
    Clock,
    Load,
    Outcome,
    Workbench,
    World,
    download_seconds,
    load_seconds,
)

_FIRST_ID = 100
_PATIENCE = 1e9  # seconds of wall time; the budget alone ends a run


def run_floe(bench: Workbench) -> Outcome:
    world = bench.world
    grid = WorldGrid(bench, world.clock())
    rounds, seconds = schedule(world)
    strategy = _strategy(world, rounds=rounds, seconds=seconds)
    clusters, details = [list(world.nodes)], {}
    if rounds:
        initial = world.initial(strategy.server_rank)
        strategy.start(grid, initial.to_arrays(), num_rounds=rounds, timeout=_PATIENCE)
        grid.clock.download_last(grid.last_downloads(strategy))
        clusters = [
            [node - _FIRST_ID for node in cluster.members] for cluster in strategy.state.clusters
        ]
        details = {
            "discarded_energy": _discarded(strategy),
            "energy_above": strategy.energy,
            "keeps": grid.keeps,
        }
    return Outcome(
        clock=grid.clock,
        served={
            node: grid.model_of(node, strategy) if rounds else world.initial(1)
            for node in world.nodes
        },
        steps=grid.steps,
        details={"clusters": clusters, "ranks": grid.ranks, **details},
    )


def affordable_ranks(bench: Workbench) -> dict[int, int]:
    """Return the rank that Floe gives each device, as read from a first round's messages."""
    grid = WorldGrid(bench, bench.world.clock(budget=0.0))
    rounds, seconds = schedule(bench.world)
    strategy = _strategy(bench.world, rounds=rounds, seconds=seconds)
    initial = bench.world.initial(strategy.server_rank)
    try:
        strategy.start(grid, initial.to_arrays(), num_rounds=sys.maxsize, timeout=_PATIENCE)
    except BudgetSpentError:
        return grid.ranks
    raise AssertionError("A run took a round without a budget.")


def schedule(world: World) -> tuple[int, float]:
    """Return the rounds, and the seconds of each.

    They are the protocol's ``merges``, or fewer if those leave a device no time for a step.
    """
    protocol, export = world.protocol, world.config.export_rank
    rank = min(protocol.ranks)
    each = int8.bytes_per_rank(world.shapes)
    load = Load(rank=rank, steps=1, bytes_down=max(export, rank) * each, bytes_up=rank * each)
    devices = [node.device for node in world.nodes.values()]
    last = max(download_seconds(device, load, protocol) for device in devices)
    shortest = max(load_seconds(device, load, protocol) for device in devices)
    for rounds in range(protocol.merges, 0, -1):
        length = (protocol.budget - last) / rounds
        if length >= shortest:
            return rounds, length
    return 0, shortest


class WatchedStrategy(FloeStrategy):
    """Floe's strategy, whose adapters are looked at after each round."""

    energy: list[float]  # by round: the mean over the clusters of `energy_above`
    smallest: int

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        found = super().aggregate_train(server_round, replies)
        shares = [energy_above(one, self.smallest) for one in self.state.cluster_adapters.values()]
        self.energy.append(statistics.fmean(shares))
        return found


def _strategy(world: World, *, rounds: int, seconds: float) -> WatchedStrategy:
    # A device takes part if it has time for a step, and takes as many as it has time for.
    changes = {"rounds": max(1, rounds), "local-steps": 1, "round-deadline": seconds}
    strategy = WatchedStrategy.from_config(
        world.protocol.run_config(world.level, world.seed, changes)
    )
    strategy.output = None
    strategy.energy, strategy.smallest = [], min(world.protocol.ranks)
    return strategy


def _discarded(strategy: FloeStrategy) -> list[dict[str, float]]:
    """Return what each round's cut to the server's rank left out, by cluster."""
    return [
        {name: found.discarded_energy or 0.0 for name, found in record.clusters.items()}
        for record in strategy.state.history
        if record.clusters
    ]


class WorldGrid(InProcessGrid):
    """A grid in this process: every message is answered at once, and takes virtual time.

    A round that would not end within the clock's budget ends the run with `BudgetSpentError`.
    """

    def __init__(self, bench: Workbench, clock: Clock) -> None:
        self.clock, self._bench = clock, bench
        self.ranks: dict[int, int] = {}
        self.steps = 0
        self.keeps: dict[int, str] = {}  # node -> which model it keeps, where devices validate
        self._last: dict[int, AdapterState] = {}  # node -> its cluster's adapter in the end
        self._states = {node: RecordDict() for node in bench.world.nodes}
        self._asked: dict[int, ConfigRecord] = {}  # node -> the last message's configuration
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        return [_FIRST_ID + index for index in self._bench.world.nodes]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        asked = list(messages)
        kinds = {message.metadata.message_type for message in asked}
        if kinds == {PROFILE_QUERY}:
            profiles = self._bench.world.profiles
            replies = [_reply(each, profiles[_index(each)].to_record()) for each in asked]
        elif kinds == {MessageType.TRAIN}:
            self._begin_round(asked)
            replies = [self._trained(each) for each in asked]
        elif kinds == {MessageType.EVALUATE}:
            replies = [self._evaluated(each) for each in asked]
        else:
            raise ValueError(f"These devices do not answer {sorted(kinds)}.")
        self._replies |= {reply.metadata.reply_to_message_id: reply for reply in replies}
        return [reply.metadata.reply_to_message_id for reply in replies]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def last_downloads(self, strategy: FloeStrategy) -> Mapping[int, Load]:
        """Return what devices load when the last round is over."""
        return {
            node: Load(
                rank=rank,
                steps=0,
                bytes_down=int8.encoded_bytes(_cluster_of(node, strategy)),
                bytes_up=0,
            )
            for node, rank in self.ranks.items()
        }

    def model_of(self, node: int, strategy: FloeStrategy) -> AdapterState:
        """Return what a device uses: its cluster's adapter, and what is its own beyond that.

        A device that validates has chosen.
        """
        cluster = self._last.get(node) or int8.rounded(_cluster_of(node, strategy))
        config = self._asked.get(node)
        kept = None
        if config is not None:
            upload = strategy.state.uploads[node + _FIRST_ID]
            kept = load_state(
                self._states[node],
                run=strategy.state.run,
                began=upload.began,
                counted=upload.counted,
                shapes=cluster.shapes,
            )
        choice = self.keeps.get(node, "own")
        if kept is not None and choice == "alone":
            return kept.own
        if kept is None or kept.sent is None or choice == "cluster":
            return cluster
        return stacked([(1.0, cluster), (1.0, kept.own), (-1.0, kept.sent)])

    def _begin_round(self, messages: list[Message]) -> None:
        loads = {}
        per_rank = int8.bytes_per_rank(self._bench.world.shapes)
        for message in messages:
            node, config = _index(message), message.content.config_records[CONFIG_KEY]
            rank, steps = (cast(int, config[key]) for key in (RANK_KEY, "local-steps"))
            loads[node] = Load(
                rank=rank, steps=steps, bytes_down=message_bytes(message), bytes_up=rank * per_rank
            )
        self.ranks = {node: load.rank for node, load in loads.items()}
        self.clock.begin_round(loads)
        self.steps += sum(load.steps for load in loads.values())

    def _context(self, node: int) -> Context:
        return Context(
            run_id=1,
            node_id=node + _FIRST_ID,
            node_config={
                "partition-id": node,
                "num-partitions": len(self._bench.world.nodes),
                "simulated": True,
            },
            state=self._states[node],
            run_config={},
        )

    def _evaluated(self, message: Message) -> Message:
        node = _index(message)
        InProcessGrid.taken(message)
        data = self._bench.world.nodes[node].data
        # What is held out is measured when the budget is spent.
        reply = client.evaluate(
            message, self._context(node), data=replace(data, held_out=data.held_out[:1])
        )
        metrics = reply.content.metric_records[METRICS_KEY]
        if "keeps" in metrics:
            self.keeps[node] = KEEPS[int(cast(int, metrics["keeps"]))]
            self._last[node] = received_adapter(message)
        return reply

    def _trained(self, message: Message) -> Message:
        world, node = self._bench.world, _index(message)
        InProcessGrid.taken(message)
        config = message.content.config_records[CONFIG_KEY]
        self._asked[node] = config
        # The clock is virtual: how many steps fit has been reckoned, not how long this one takes.
        message.content = RecordDict(
            {**message.content, CONFIG_KEY: ConfigRecord({**config, DEADLINE_KEY: 0.0})}
        )
        reply = client.train(
            message,
            self._context(node),
            data=world.nodes[node].data,
            device=world.nodes[node].device,
        )
        self._bench.trainings += 1
        load = Load(
            rank=cast(int, config[RANK_KEY]),
            steps=cast(int, config["local-steps"]),
            bytes_down=message_bytes(message),
            bytes_up=message_bytes(reply),
        )
        device = world.nodes[node].device
        seconds = load_seconds(device, load, world.protocol)
        reply.content.metric_records[METRICS_KEY]["seconds"] = seconds
        return reply


def _cluster_of(node: int, strategy: FloeStrategy) -> AdapterState:
    state = strategy.state
    cluster = state.cluster_of(node + _FIRST_ID).name
    return state.adapter(cluster, strategy.export_rank)


def _index(message: Message) -> int:
    return message.metadata.dst_node_id - _FIRST_ID


def _reply(message: Message, content: RecordDict) -> Message:
    InProcessGrid.taken(message)
    return Message(content=content, reply_to=message)
