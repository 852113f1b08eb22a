"""The methods: `FloeStrategy` itself, and the others as in their papers, none tuned.

All share initial adapter, data, order of batches, local training, device ranks, clock and budget;
the others a scaling of 1 (alpha = rank) on every device, too.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from flwr.app import Message, MessageType, MetricRecord, RecordDict

from flower_strategy.adapters.adapter import AdapterState, LoraFactors
from flower_strategy.adapters.mean import AdapterMean
from flower_strategy.messages import (
    ARRAYS_KEY,
    CONFIG_KEY,
    METRICS_KEY,
    PROFILE_QUERY,
    received_adapter,
)
from flower_strategy.strategy import FloeStrategy
from flower_strategy.testing.grids import InProcessGrid
from integration_tests.benchmarks.federated_quality.world import (
    BudgetSpentError,
    Clock,
    Load,
    Outcome,
    Workbench,
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
        adapters = {_index(message): received_adapter(message) for message in messages}
        try:
            self.clock.begin_round(loads_of(adapters))
        except BudgetSpentError:
            self.declined = adapters
            raise
        return [self._trained(message, adapters[_index(message)]) for message in messages]

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


def _reply(message: Message, content: RecordDict) -> Message:
    InProcessGrid.taken(message)
    return Message(content=content, reply_to=message)


def factor_mean(adapters: Sequence[AdapterState], weights: Sequence[float]) -> AdapterState:
    """Return the weighted mean of A and the weighted mean of B, taken separately.

    FedAvg (McMahan et al., arXiv 1602.05629) on the adapter's arrays, as FlowerTune and FedIT
    (Zhang et al., arXiv 2305.05644) do. All adapters have one rank and one scaling.
    """
    shares = np.asarray(_shares(weights), dtype=np.float32)
    layers = {
        name: LoraFactors(
            b=np.tensordot(shares, np.stack([one.layers[name].b for one in adapters]), axes=1),
            a=np.tensordot(shares, np.stack([one.layers[name].a for one in adapters]), axes=1),
        )
        for name in adapters[0].layers
    }
    return AdapterState(layers, adapters[0].scaling)


def zero_padded_mean(adapters: Sequence[AdapterState], rank: int) -> AdapterState:
    """Return HetLoRA's mean: factors padded with zeros to `rank`, weighted by their norms.

    Cho et al., "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models"
    (arXiv 2401.06432): the weight of a device is the Frobenius norm of its update B A, which gives
    less to small updates. All adapters have one scaling.
    """
    norms = [product_norm(adapter) for adapter in adapters]
    padded = [adapter.resized(rank) for adapter in adapters]
    return factor_mean(padded, norms if any(norms) else [1.0] * len(norms))


def product_norm(adapter: AdapterState) -> float:
    """Return the Frobenius norm of the moves of all layers, without forming them.

    The square of ``|B A|`` is the trace of ``(B^T B) (A A^T)``.
    """
    squares = (
        float(np.sum((f.b.T @ f.b).astype(np.float64) * (f.a @ f.a.T).astype(np.float64)))
        for f in adapter.layers.values()
    )
    return abs(adapter.scaling) * math.sqrt(max(0.0, math.fsum(squares)))


def decomposed_mean(
    adapters: Sequence[AdapterState], weights: Sequence[float], rank: int
) -> AdapterState:
    """Return FlexLoRA's mean: the singular value decomposition of the mean product, cut to `rank`.

    Bai et al., "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and
    Client Resources" (arXiv 2402.11505). The singular values go to B, so the rows of A are
    orthonormal. The matrix is that of the dense sum; it is decomposed in factored form, which only
    saves time.
    """
    mean = AdapterMean(adapters[0].shapes)
    for adapter, weight in zip(adapters, weights, strict=True):
        mean.add(adapter, weight=weight)
    layers = {}
    for name, factors in mean.result(rank).adapter.layers.items():
        lengths = np.linalg.norm(factors.a, axis=1)
        lengths[lengths == 0] = 1.0
        layers[name] = LoraFactors(b=factors.b * lengths, a=factors.a / lengths[:, None])
    return AdapterState(layers)


def stack(adapters: Sequence[AdapterState], weights: Sequence[float]) -> AdapterState:
    """Return FLoRA's sum: all factors side by side, so its product is the mean product exactly.

    Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank
    Adaptations" (arXiv 2409.05976). Its rank is the sum of the ranks, its scaling 1.
    """
    shares = zip(_shares(weights), adapters, strict=True)
    return joined([one.scaled(share * one.scaling) for share, one in shares])


def joined(adapters: Sequence[AdapterState]) -> AdapterState:
    """Return the sum of adapters of scaling 1 as one of their ranks' sum."""
    layers = {
        name: LoraFactors(
            b=np.hstack([one.layers[name].b for one in adapters]),
            a=np.vstack([one.layers[name].a for one in adapters]),
        )
        for name in adapters[0].layers
    }
    return AdapterState(layers)


def _shares(weights: Sequence[float]) -> list[float]:
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def loads_of(sent: Mapping[int, AdapterState], *, down: int | None = None) -> dict[int, Load]:
    """Return a round's load per node: as many bytes come down as go up, unless told otherwise."""
    return {
        node: Load(rank=each.rank, bytes_down=down or each.num_bytes, bytes_up=each.num_bytes)
        for node, each in sent.items()
    }


class Federation(ABC):
    """Rounds of one global model, until the budget is spent; at the ranks that Floe gives."""

    def __init__(self, bench: Workbench, ranks: Mapping[int, int]) -> None:
        self.bench, self.world = bench, bench.world
        self.ranks = dict(ranks)
        self.rounds = 0

    def run(self) -> Outcome:
        """Run rounds while the next one would end within the budget."""
        clock = self.world.clock()
        while True:
            sent = {node: self.adapter_for(node) for node in self.ranks}
            try:
                clock.begin_round(self.loads(sent))
            except BudgetSpentError:
                break
            self.rounds += 1
            how: dict[str, Any] = {"server_round": self.rounds, "frozen": self.frozen}
            trained = [self.bench.train(node, each, **how).adapter for node, each in sent.items()]
            self.aggregate(trained, [len(self.world.nodes[node].data.train) for node in sent])
        steps = self.rounds * self.world.protocol.local_steps * len(self.ranks)
        served = {node: self.served(node) for node in self.ranks}
        return Outcome(clock=clock, served=served, steps=steps, details={"ranks": self.ranks})

    def loads(self, sent: Mapping[int, AdapterState]) -> dict[int, Load]:
        return loads_of(sent)

    @property
    def frozen(self) -> AdapterState | None:
        """The permanent change of the base weights."""
        return None

    @abstractmethod
    def adapter_for(self, node: int) -> AdapterState:
        """Return the adapter that a device trains next."""

    def served(self, node: int) -> AdapterState:
        """Return the adapter that a device would use now."""
        return self.adapter_for(node)

    @abstractmethod
    def aggregate(self, adapters: list[AdapterState], weights: list[int]) -> None:
        """Take in a round's trained adapters; weights are the devices' examples."""


class OneModel(Federation):
    """A model of the largest rank; a device gets the first terms, as many as its rank."""

    def __init__(self, bench: Workbench, ranks: Mapping[int, int]) -> None:
        super().__init__(bench, ranks)
        self.model = self.initial = self.world.initial(max(ranks.values()))

    def adapter_for(self, node: int) -> AdapterState:
        return self.model.resized(self.ranks[node])


class FedAvg(OneModel):
    """A and B averaged apart, at the smallest rank that all devices afford."""

    def __init__(self, bench: Workbench, ranks: Mapping[int, int]) -> None:
        super().__init__(bench, dict.fromkeys(ranks, min(ranks.values())))

    def aggregate(self, adapters: list[AdapterState], weights: list[int]) -> None:
        self.model = factor_mean(adapters, weights)


class HetLora(OneModel):
    """Zero-padding to the largest rank.

    The paper's pruning of ranks during training is left out: ranks are the rank policy's, for all
    methods.
    """

    def aggregate(self, adapters: list[AdapterState], weights: list[int]) -> None:
        self.model = zero_padded_mean(adapters, self.model.rank)


class FlexLora(OneModel):
    """The mean product, decomposed."""

    def adapter_for(self, node: int) -> AdapterState:
        return self.model.resized(self.ranks[node], fill=self.initial)

    def aggregate(self, adapters: list[AdapterState], weights: list[int]) -> None:
        self.model = decomposed_mean(adapters, weights, self.initial.rank)


class Flora(Federation):
    """All devices' factors stacked and merged into every base model; adapters start afresh.

    Every device downloads the whole stack. Fresh adapters are drawn on the device and cost no
    download.
    """

    def __init__(self, bench: Workbench, ranks: Mapping[int, int]) -> None:
        super().__init__(bench, ranks)
        self._merged: AdapterState | None = None

    @property
    def frozen(self) -> AdapterState | None:
        return self._merged

    def adapter_for(self, node: int) -> AdapterState:
        return self.world.initial(self.ranks[node], variant=self.rounds)

    def loads(self, sent: Mapping[int, AdapterState]) -> dict[int, Load]:
        """Return what a round costs: up the device's own factors, down those of all."""
        return loads_of(sent, down=sum(adapter.num_bytes for adapter in sent.values()))

    def served(self, node: int) -> AdapterState:
        return self._merged or self.adapter_for(node)

    def aggregate(self, adapters: list[AdapterState], weights: list[int]) -> None:
        update = stack(adapters, weights)
        self._merged = joined([self._merged, update]) if self._merged else update


def run_local(bench: Workbench) -> Outcome:
    """Let every device train alone, at the rank that Floe gives it, for the whole budget."""
    world, clock = bench.world, bench.world.clock()
    ranks = affordable_ranks(bench)
    steps: dict[int, int] = {}
    served = {}
    for node, rank in ranks.items():
        each = step_seconds(world.nodes[node].device, rank, world.protocol)
        steps[node] = int(world.protocol.budget / each)
        served[node] = world.initial(rank)
        if steps[node]:
            outcome = bench.train(node, served[node], server_round=1, steps=steps[node])
            served[node] = outcome.adapter
        clock.seconds = max(clock.seconds, steps[node] * each)
    details = {"ranks": ranks, "steps_by_device": steps}
    return Outcome(clock=clock, served=served, steps=sum(steps.values()), details=details)


def run_untrained(bench: Workbench) -> Outcome:
    served = {node: bench.world.initial(1) for node in bench.world.nodes}
    return Outcome(clock=bench.world.clock(), served=served, steps=0)


def _federated(method: type[Federation]) -> Callable[[Workbench], Outcome]:
    return lambda bench: method(bench, affordable_ranks(bench)).run()


#: Name -> the method; run on a workbench of one level and seed.
METHODS: dict[str, Callable[[Workbench], Outcome]] = {
    "floe": run_floe,
    **{each.__name__.lower(): _federated(each) for each in (FedAvg, HetLora, FlexLora, Flora)},
    "local": run_local,
    "untrained": run_untrained,
}
