"""Floe itself: `FloeStrategy` on a grid in this process, whose messages take virtual time."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import cast

from flwr.app import Message, MessageType, MetricRecord, RecordDict

from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.messages import ARRAYS_KEY, CONFIG_KEY, METRICS_KEY, PROFILE_QUERY
from flower_strategy.strategy import FloeStrategy
from flower_strategy.testing.grids import InProcessGrid
from integration_tests.benchmarks.federated_quality.world import (
    BudgetSpentError,
    Clock,
    Load,
    Outcome,
    Workbench,
    download_seconds,
    step_seconds,
)

_FIRST_ID = 100
_PATIENCE = 1e9  # seconds of wall time; the budget alone ends a run


def run_floe(bench: Workbench) -> Outcome:
    grid = WorldGrid(bench, bench.world.clock())
    members = [cluster.members for cluster in _run(grid, bench).state.clusters]
    details = {
        "clusters": [[node - _FIRST_ID for node in nodes] for nodes in members],
        "ranks": {node: adapter.rank for node, adapter in grid.declined.items()},
    }
    steps = grid.clock.rounds * bench.world.protocol.local_steps * len(grid.declined)
    return Outcome(clock=grid.clock, served=grid.declined, steps=steps, details=details)


def affordable_ranks(bench: Workbench) -> dict[int, int]:
    """Return the rank that Floe gives each device, as read from a first round's messages."""
    grid = WorldGrid(bench, bench.world.clock(budget=0.0))
    _run(grid, bench)
    return {node: adapter.rank for node, adapter in grid.declined.items()}


def _run(grid: WorldGrid, bench: Workbench) -> FloeStrategy:
    strategy = FloeStrategy.from_config(bench.world.config)
    strategy.output = None
    initial = bench.world.initial(strategy.server_rank)
    try:
        strategy.start(grid, initial.to_arrays(), num_rounds=sys.maxsize, timeout=_PATIENCE)
    except BudgetSpentError:
        return strategy
    raise AssertionError("A run ended before its budget was spent.")


class WorldGrid(InProcessGrid):
    """A grid in this process: every message is answered at once, and takes virtual time.

    A round that would not end within the clock's budget is declined, and `BudgetSpentError` ends
    the run. `declined` has the adapter that it would have sent to each node: what it has at the
    end.
    """

    def __init__(self, bench: Workbench, clock: Clock) -> None:
        self.clock, self._bench = clock, bench
        self.declined: dict[int, AdapterState] = {}
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
            replies = self._train(asked)
        else:
            raise ValueError(f"These devices train and tell their profile, got {sorted(kinds)}.")
        self._replies |= {reply.metadata.reply_to_message_id: reply for reply in replies}
        return [reply.metadata.reply_to_message_id for reply in replies]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def _train(self, messages: list[Message]) -> list[Message]:
        adapters = {_index(message): _adapter(message) for message in messages}
        try:
            self._begin_round(adapters)
        except BudgetSpentError:
            self.declined = adapters
            raise
        return [self._trained(message, adapters[_index(message)]) for message in messages]

    def _begin_round(self, adapters: Mapping[int, AdapterState]) -> None:
        protocol, first = self._bench.world.protocol, not self.clock.rounds
        loads = {
            node: Load(
                rank=each.rank,
                steps=protocol.local_steps,
                bytes_down=each.num_bytes,
                bytes_up=each.num_bytes,
            )
            for node, each in adapters.items()
        }
        devices = {node: self._bench.world.nodes[node].device for node in loads}
        last = max(download_seconds(devices[node], one, protocol) for node, one in loads.items())
        try:
            self.clock.begin_round(
                {node: one.without_download() if first else one for node, one in loads.items()},
                reserve=last,
            )
        except BudgetSpentError:
            if not first:
                self.clock.download_last(loads)
            raise

    def _trained(self, message: Message, adapter: AdapterState) -> Message:
        world, node = self._bench.world, _index(message)
        sent_in = cast(int, message.content.config_records[CONFIG_KEY]["server-round"])
        outcome = self._bench.train(node, adapter, server_round=int(sent_in))
        device, protocol = world.nodes[node].device, world.protocol
        seconds = protocol.local_steps * step_seconds(device, adapter.rank, protocol)
        metrics = MetricRecord(
            {
                "num-examples": len(world.nodes[node].data.train),
                "scaling": outcome.adapter.scaling,
                "train-loss": outcome.loss,
                "seconds": seconds + device.upload_seconds(outcome.adapter.num_bytes),
            }
        )
        arrays = outcome.adapter.to_arrays()
        return _reply(message, RecordDict({ARRAYS_KEY: arrays, METRICS_KEY: metrics}))


def _index(message: Message) -> int:
    return message.metadata.dst_node_id - _FIRST_ID


def _adapter(message: Message) -> AdapterState:
    scaling = cast(float, message.content.config_records[CONFIG_KEY]["scaling"])
    arrays = message.content.array_records[ARRAYS_KEY]
    return AdapterState.from_arrays(arrays, scaling=float(scaling))


def _reply(message: Message, content: RecordDict) -> Message:
    InProcessGrid.taken(message)
    return Message(content=content, reply_to=message)
