"""The other methods, each as its paper has it, under the protocol that Floe is under.

All share initial adapter, data, order of batches, local training, device ranks, clock and budget;
a scaling of 1 (alpha = rank) on every device. None is tuned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from flower_strategy.adapters.adapter import AdapterState
from integration_tests.benchmarks.federated_quality import averaging
from integration_tests.benchmarks.federated_quality.clock import (
    BudgetSpentError,
    Load,
    step_seconds,
)
from integration_tests.benchmarks.federated_quality.floe import affordable_ranks, run_floe
from integration_tests.benchmarks.federated_quality.outcome import Outcome
from integration_tests.benchmarks.federated_quality.workbench import Workbench


class Federation(ABC):
    """Rounds of one global model, until the budget is spent.

    Parameters
    ----------
    bench : Workbench
        Training, and the world with its devices.
    ranks : Mapping[int, int]
        Node -> the rank that Floe gives it.
    """

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
            replies = {
                node: self.bench.train(
                    node, adapter, server_round=self.rounds, frozen=self.frozen
                ).adapter
                for node, adapter in sent.items()
            }
            weights = {node: self.world.nodes[node].num_examples for node in replies}
            self.aggregate(replies, weights)
        steps = self.rounds * self.world.protocol.local_steps * len(self.ranks)
        served = {node: self.served(node) for node in self.ranks}
        return Outcome.of(clock, served=served, steps=steps, details={"ranks": self.ranks})

    def loads(self, sent: Mapping[int, AdapterState]) -> dict[int, Load]:
        """Return what a round costs each device; down comes as much as goes up."""
        return {
            node: Load(rank=adapter.rank, bytes_down=adapter.num_bytes, bytes_up=adapter.num_bytes)
            for node, adapter in sent.items()
        }

    @property
    def frozen(self) -> AdapterState | None:
        """What the base weights have moved by for good."""
        return None

    @abstractmethod
    def adapter_for(self, node: int) -> AdapterState:
        """Return the adapter that a device trains next."""

    def served(self, node: int) -> AdapterState:
        """Return the adapter that a device would use now."""
        return self.adapter_for(node)

    @abstractmethod
    def aggregate(self, replies: Mapping[int, AdapterState], weights: Mapping[int, int]) -> None:
        """Take in a round's trained adapters; weights are the devices' examples."""


class FedAvg(Federation):
    """A and B averaged apart, at the smallest rank that all devices afford."""

    def __init__(self, bench: Workbench, ranks: Mapping[int, int]) -> None:
        smallest = min(ranks.values())
        super().__init__(bench, dict.fromkeys(ranks, smallest))
        self.model = self.world.initial(smallest)

    def adapter_for(self, node: int) -> AdapterState:
        return self.model

    def aggregate(self, replies: Mapping[int, AdapterState], weights: Mapping[int, int]) -> None:
        self.model = averaging.factor_mean(list(replies.values()), list(weights.values()))


class HetLora(Federation):
    """Zero-padding to the largest rank; a device gets the first terms, as many as its rank.

    The paper's pruning of ranks during training is left out: ranks are the rank policy's, for all
    methods.
    """

    def __init__(self, bench: Workbench, ranks: Mapping[int, int]) -> None:
        super().__init__(bench, ranks)
        self.model = self.world.initial(max(ranks.values()))

    def adapter_for(self, node: int) -> AdapterState:
        return self.model.resized(self.ranks[node])

    def aggregate(self, replies: Mapping[int, AdapterState], weights: Mapping[int, int]) -> None:
        self.model = averaging.zero_padded_mean(list(replies.values()), self.model.rank)


class FlexLora(Federation):
    """The mean product, decomposed; a device gets the first terms, as many as its rank."""

    def __init__(self, bench: Workbench, ranks: Mapping[int, int]) -> None:
        super().__init__(bench, ranks)
        self.initial = self.world.initial(max(ranks.values()))
        self.model = self.initial

    def adapter_for(self, node: int) -> AdapterState:
        return self.model.resized(self.ranks[node], fill=self.initial)

    def aggregate(self, replies: Mapping[int, AdapterState], weights: Mapping[int, int]) -> None:
        self.model = averaging.decomposed_mean(
            list(replies.values()), list(weights.values()), self.initial.rank
        )


class Flora(Federation):
    """All devices' factors stacked and merged into every base model; adapters begin anew.

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
        everything = sum(adapter.num_bytes for adapter in sent.values())
        return {
            node: Load(rank=adapter.rank, bytes_down=everything, bytes_up=adapter.num_bytes)
            for node, adapter in sent.items()
        }

    def served(self, node: int) -> AdapterState:
        return self._merged or self.adapter_for(node)

    def aggregate(self, replies: Mapping[int, AdapterState], weights: Mapping[int, int]) -> None:
        update = averaging.stack(list(replies.values()), list(weights.values()))
        self._merged = averaging.joined([self._merged, update]) if self._merged else update


def run_local(bench: Workbench) -> Outcome:
    """Let every device train alone, at the rank that Floe gives it, for the whole budget."""
    world = bench.world
    ranks = affordable_ranks(bench)
    steps = {
        node: int(
            world.protocol.budget / step_seconds(world.nodes[node].device, rank, world.protocol)
        )
        for node, rank in ranks.items()
    }
    clock = world.clock()
    served = {}
    for node, rank in ranks.items():
        adapter = world.initial(rank)
        if steps[node]:
            adapter = bench.train(node, adapter, server_round=1, steps=steps[node]).adapter
        used = steps[node] * step_seconds(world.nodes[node].device, rank, world.protocol)
        clock.seconds = max(clock.seconds, used)
        served[node] = adapter
    details = {"ranks": ranks, "steps_by_device": steps}
    return Outcome.of(clock, served=served, steps=sum(steps.values()), details=details)


def run_untrained(bench: Workbench) -> Outcome:
    """Leave the base model as it is: where all methods begin."""
    served = {node: bench.world.initial(1) for node in bench.world.nodes}
    return Outcome.of(bench.world.clock(), served=served, steps=0)


def _federated(method: type[Federation]) -> Callable[[Workbench], Outcome]:
    return lambda bench: method(bench, affordable_ranks(bench)).run()


METHODS: dict[str, Callable[[Workbench], Outcome]] = {
    "floe": run_floe,
    "fedavg": _federated(FedAvg),
    "hetlora": _federated(HetLora),
    "flexlora": _federated(FlexLora),
    "flora": _federated(Flora),
    "local": run_local,
    "untrained": run_untrained,
}
"""Name -> the method; run on a workbench of one level and seed."""
