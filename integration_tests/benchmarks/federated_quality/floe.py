"""Floe: the real `FloeStrategy`, on a grid whose devices are those of a `World`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import cast

from flwr.app import Message, MessageType, MetricRecord, RecordDict

from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.messages import ARRAYS_KEY, CONFIG_KEY, METRICS_KEY, PROFILE_QUERY
from flower_strategy.strategy import FloeStrategy
from flower_strategy.testing.grids import InProcessGrid
from integration_tests.benchmarks.federated_quality.clock import (
    BudgetSpentError,
    Clock,
    Load,
    step_seconds,
)
from integration_tests.benchmarks.federated_quality.outcome import Outcome
from integration_tests.benchmarks.federated_quality.workbench import Workbench

_FIRST_ID = 100
_PATIENCE = 1e9  # seconds of wall time; the budget alone ends a run


def run_floe(bench: Workbench) -> Outcome:
    """Run Floe until its budget is spent."""
    grid = WorldGrid(bench, bench.world.clock())
    strategy = _run(grid, bench)
    members = [cluster.members for cluster in strategy.state.clusters]
    return Outcome.of(
        grid.clock,
        served=grid.declined,
        steps=grid.clock.rounds * bench.world.protocol.local_steps * len(grid.declined),
        details={
            "clusters": [[node - _FIRST_ID for node in nodes] for nodes in members],
            "ranks": {node: adapter.rank for node, adapter in grid.declined.items()},
        },
    )


def affordable_ranks(bench: Workbench) -> dict[int, int]:
    """Return the rank that Floe gives each device, read off the messages of a first round."""
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

    A round that would not end within the clock's budget is declined: its messages stay in
    `declined`, and `BudgetSpentError` ends the run.

    Attributes
    ----------
    declined : dict[int, AdapterState]
        Node -> the adapter that the declined round would have sent it: what it has at the end.
    """

    def __init__(self, bench: Workbench, clock: Clock) -> None:
        self.clock = clock
        self.declined: dict[int, AdapterState] = {}
        self._bench = bench
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        return [_FIRST_ID + index for index in self._bench.world.nodes]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        asked = list(messages)
        kinds = {message.metadata.message_type for message in asked}
        if kinds == {PROFILE_QUERY}:
            replies = [self._profile(message) for message in asked]
        elif kinds == {MessageType.TRAIN}:
            replies = self._train(asked)
        else:
            raise ValueError(f"These devices train and tell their profile, got {sorted(kinds)}.")
        self._replies |= {reply.metadata.reply_to_message_id: reply for reply in replies}
        return [reply.metadata.reply_to_message_id for reply in replies]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def _profile(self, message: Message) -> Message:
        profile = self._bench.world.profiles[_index(message)]
        return _reply(message, profile.to_record())

    def _train(self, messages: list[Message]) -> list[Message]:
        adapters = {_index(message): _adapter(message) for message in messages}
        loads = {node: _load(adapter) for node, adapter in adapters.items()}
        try:
            self.clock.begin_round(loads)
        except BudgetSpentError:
            self.declined = adapters
            raise
        return [self._trained(message, adapters, loads) for message in messages]

    def _trained(
        self, message: Message, adapters: Mapping[int, AdapterState], loads: Mapping[int, Load]
    ) -> Message:
        node = _index(message)
        config = message.content.config_records[CONFIG_KEY]
        outcome = self._bench.train(
            node, adapters[node], server_round=int(cast(int, config["server-round"]))
        )
        world = self._bench.world
        device, protocol = world.nodes[node].device, world.protocol
        seconds = protocol.local_steps * step_seconds(device, loads[node].rank, protocol)
        metrics = MetricRecord(
            {
                "num-examples": world.nodes[node].num_examples,
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
    scaling = message.content.config_records[CONFIG_KEY]["scaling"]
    return AdapterState.from_arrays(
        message.content.array_records[ARRAYS_KEY], scaling=float(cast(float, scaling))
    )


def _load(adapter: AdapterState) -> Load:
    return Load(rank=adapter.rank, bytes_down=adapter.num_bytes, bytes_up=adapter.num_bytes)


def _reply(message: Message, content: RecordDict) -> Message:
    InProcessGrid.taken(message)
    return Message(content=content, reply_to=message)
