"""Floe itself: `FloeStrategy` and the product's client on a grid in this process.

Messages take virtual time, by their bytes; a device's steps are those that the server asks for.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import cast

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict

from flower_strategy import client
from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.adapters.stacking import stacked
from flower_strategy.device.kept_state import load_state
from flower_strategy.messages import (
    CONFIG_KEY,
    DEADLINE_KEY,
    METRICS_KEY,
    PROFILE_QUERY,
    RANK_KEY,
    message_bytes,
)
from flower_strategy.strategy import FloeStrategy
from flower_strategy.testing.grids import InProcessGrid
from integration_tests.benchmarks.federated_quality.world import (
    BudgetSpentError,
    Clock,
    Load,
    Outcome,
    Workbench,
    World,
    download_seconds,
    load_seconds,
    step_seconds,
)

_FIRST_ID = 100
_PATIENCE = 1e9  # seconds of wall time; the budget alone ends a run


def run_floe(bench: Workbench) -> Outcome:
    world = bench.world
    grid = WorldGrid(bench, world.clock())
    rounds, steps = schedule(world)
    strategy = _strategy(world, steps=steps)
    clusters, details = [list(world.nodes)], {}
    if rounds:
        initial = world.initial(strategy.server_rank)
        strategy.start(grid, initial.to_arrays(), num_rounds=rounds, timeout=_PATIENCE)
        grid.clock.download_last(grid.last_downloads(strategy))
        clusters = [
            [node - _FIRST_ID for node in cluster.members] for cluster in strategy.state.clusters
        ]
        details = {"discarded_energy": _discarded(strategy)}
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
    strategy = _strategy(bench.world, steps=max(1, schedule(bench.world)[1]))
    initial = bench.world.initial(strategy.server_rank)
    try:
        strategy.start(grid, initial.to_arrays(), num_rounds=sys.maxsize, timeout=_PATIENCE)
    except BudgetSpentError:
        return grid.ranks
    raise AssertionError("A run took a round without a budget.")


def schedule(world: World) -> tuple[int, int]:
    """Return the rounds, and the steps of the slowest device in each.

    They are the protocol's ``merges``, or fewer if those leave a device no time for a step. The
    deadline follows from the steps that the slowest device is given.
    """
    protocol, export = world.protocol, world.config.export_rank
    rank = min(protocol.ranks)
    each = int8.bytes_per_rank(world.shapes)
    load = Load(rank=rank, steps=0, bytes_down=max(export, rank) * each, bytes_up=rank * each)
    devices = [node.device for node in world.nodes.values()]
    last = max(download_seconds(device, load, protocol) for device in devices)
    for rounds in range(protocol.merges, 0, -1):
        length = (protocol.budget - last) / rounds
        steps = min(
            math.floor(
                (length - load_seconds(device, load, protocol))
                / step_seconds(device, rank, protocol)
            )
            for device in devices
        )
        if steps >= 1:
            return rounds, steps
    return 0, 0


def _strategy(world: World, *, steps: int) -> FloeStrategy:
    protocol = replace(world.protocol, local_steps=max(1, steps))
    strategy = FloeStrategy.from_config(protocol.run_config(world.level, world.seed))
    strategy.output = None
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
        else:
            raise ValueError(f"These devices train and tell their profile, got {sorted(kinds)}.")
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
        """Return what a device uses: its cluster's adapter, and what is its own beyond that."""
        cluster = int8.rounded(_cluster_of(node, strategy))
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
        if kept is None or kept.sent is None:
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

    def _trained(self, message: Message) -> Message:
        world, node = self._bench.world, _index(message)
        InProcessGrid.taken(message)
        config = message.content.config_records[CONFIG_KEY]
        self._asked[node] = config
        # The clock is virtual: how many steps fit has been reckoned, not how long this one takes.
        message.content = RecordDict(
            {**message.content, CONFIG_KEY: ConfigRecord({**config, DEADLINE_KEY: 0.0})}
        )
        context = Context(
            run_id=1,
            node_id=message.metadata.dst_node_id,
            node_config={
                "partition-id": node,
                "num-partitions": len(world.nodes),
                "simulated": True,
            },
            state=self._states[node],
            run_config={},
        )
        reply = client.train(
            message, context, data=world.nodes[node].data, device=world.nodes[node].device
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
