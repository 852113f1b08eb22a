"""The methods: Floe itself, and the others as in their papers, none tuned but `local_tuned`.

All share initial adapter, data, order of batches, local training, device ranks, clock and budget;
the others a scaling of 1 (alpha = rank) on every device, too. A federated method says what goes
down, what a device trains on, how the server combines what comes up, and with what a device ends;
`run_rounds` runs any of them with any `Way` of transport and steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial

from flower_strategy.adapters.adapter import AdapterState
from integration_tests.benchmarks.federated_quality.floe import affordable_ranks, run_floe
from integration_tests.benchmarks.federated_quality.means import (
    decomposed_mean,
    energy_above,
    factor_mean,
    joined,
    stack,
    zero_padded_mean,
)
from integration_tests.benchmarks.federated_quality.ways import Way, planned, split_name
from integration_tests.benchmarks.federated_quality.world import (
    BudgetSpentError,
    Load,
    Outcome,
    Workbench,
    World,
    step_seconds,
)

#: Factors of the learning rate that `local_tuned` tries.
TUNED = (0.5, 1.0, 2.0)


class Federation(ABC):
    """What a federated method does, at the ranks that Floe gives."""

    def __init__(self, world: World, ranks: Mapping[int, int]) -> None:
        self.world = world
        self.ranks = dict(ranks)
        self.rounds = 0  # that have been combined

    @abstractmethod
    def adapter_for(self, node: int) -> AdapterState:
        """Return the adapter that a device trains next."""

    def comes_down(self, node: int) -> list[AdapterState]:
        """Return the adapters that a device downloads before it trains."""
        return [self.adapter_for(node)]

    def received(self, node: int, way: Way) -> AdapterState:
        """Return the adapter that a device trains, as it has arrived."""
        # In the first round nothing travels: the initial adapter follows from the seed.
        return way.carried(self.adapter_for(node)) if self.rounds else self.adapter_for(node)

    @property
    def frozen(self) -> AdapterState | None:
        """The permanent change of the base weights."""
        return None

    @property
    def shared(self) -> AdapterState | None:
        """What the server makes of a round's adapters for all devices, whatever their ranks."""
        return None

    def ends_with(self, node: int, way: Way) -> AdapterState:
        """Return the adapter that a device uses, which it downloads after the last round."""
        return self.received(node, way)

    def combine(self, adapters: list[AdapterState], weights: list[int]) -> None:
        """Take in a round's trained adapters; weights are the devices' examples."""
        self.rounds += 1
        self._combine(adapters, weights)

    @abstractmethod
    def _combine(self, adapters: list[AdapterState], weights: list[int]) -> None: ...


class OneModel(Federation):
    """A model of the largest rank; a device gets the first terms, as many as its rank."""

    def __init__(self, world: World, ranks: Mapping[int, int]) -> None:
        super().__init__(world, ranks)
        self.model = self.initial = self.world.initial(max(ranks.values()))

    @property
    def shared(self) -> AdapterState:
        return self.model

    def adapter_for(self, node: int) -> AdapterState:
        return self.model.resized(self.ranks[node])


class FedAvg(OneModel):
    """A and B averaged apart, at the smallest rank that all devices afford."""

    def __init__(self, world: World, ranks: Mapping[int, int]) -> None:
        super().__init__(world, dict.fromkeys(ranks, min(ranks.values())))

    def _combine(self, adapters: list[AdapterState], weights: list[int]) -> None:
        self.model = factor_mean(adapters, weights)


class HetLora(OneModel):
    """Zero-padding to the largest rank.

    The paper's pruning of ranks during training is left out: ranks are the rank policy's, for all
    methods.
    """

    def _combine(self, adapters: list[AdapterState], weights: list[int]) -> None:
        self.model = zero_padded_mean(adapters, self.model.rank)


class FlexLora(OneModel):
    """The mean product, decomposed."""

    def adapter_for(self, node: int) -> AdapterState:
        return self.model.resized(self.ranks[node], fill=self.initial)

    def _combine(self, adapters: list[AdapterState], weights: list[int]) -> None:
        self.model = decomposed_mean(adapters, weights, self.initial.rank)


class Flora(Federation):
    """All devices' factors stacked and merged into every base model; adapters start afresh.

    Every device downloads what all have sent, as it was sent. Fresh adapters are drawn on the
    device and cost no download.
    """

    def __init__(self, world: World, ranks: Mapping[int, int]) -> None:
        super().__init__(world, ranks)
        self._merged: AdapterState | None = None

    @property
    def frozen(self) -> AdapterState | None:
        return self._merged

    def adapter_for(self, node: int) -> AdapterState:
        return self.world.initial(self.ranks[node], variant=self.rounds)

    def comes_down(self, node: int) -> list[AdapterState]:
        return [self.adapter_for(other) for other in self.ranks]

    def received(self, node: int, way: Way) -> AdapterState:
        return self.adapter_for(node)

    def ends_with(self, node: int, way: Way) -> AdapterState:
        return self._merged or self.adapter_for(node)

    def _combine(self, adapters: list[AdapterState], weights: list[int]) -> None:
        update = stack(adapters, weights)
        self._merged = joined([self._merged, update]) if self._merged else update


def loads_of(method: Federation, way: Way) -> dict[int, Load]:
    """Return every device's part of a round other than the first, with one step."""
    loads = {}
    for node in method.ranks:
        adapter = method.adapter_for(node)
        loads[node] = Load(
            rank=adapter.rank,
            steps=1,
            bytes_down=sum(way.bytes_of(each) for each in method.comes_down(node)),
            bytes_up=way.bytes_of(adapter),
        )
    return loads


def run_rounds(bench: Workbench, method: Federation, way: Way) -> Outcome:
    """Run rounds while the next one, and the download of its result, would end in time."""
    world, clock = bench.world, bench.world.clock()
    loads = loads_of(method, way)
    plan = planned(world, loads, way=way)
    loads = {node: load.with_steps(plan.steps[node]) for node, load in loads.items()}
    energy = []
    while method.rounds < plan.rounds:
        now = loads if method.rounds else {n: load.without_download() for n, load in loads.items()}
        try:
            clock.begin_round(now, reserve=plan.last_seconds)
        except BudgetSpentError:
            break
        trained = []
        for node, steps in plan.steps.items():
            outcome = bench.train(
                node,
                method.received(node, way),
                server_round=method.rounds + 1,
                steps=steps,
                frozen=method.frozen,
            )
            trained.append(way.carried(outcome.adapter))
        method.combine(trained, [len(world.nodes[node].data.train) for node in loads])
        if method.shared is not None:
            energy.append(energy_above(method.shared, min(world.protocol.ranks)))
    if method.rounds:
        clock.download_last(loads)
    return Outcome(
        clock=clock,
        served={node: method.ends_with(node, way) for node in method.ranks},
        steps=method.rounds * sum(plan.steps.values()),
        details={
            "ranks": method.ranks,
            "steps_by_device": plan.steps,
            "energy_above": energy,
        },
    )


def run_local(bench: Workbench, *, rate: float = 1.0) -> Outcome:
    """Let every device train alone, at the rank that Floe gives it, for the whole budget.

    Parameters
    ----------
    bench : Workbench
        Where it trains.
    rate : float (default: 1.0)
        Factor of the protocol's learning rate.
    """
    world, clock = bench.world, bench.world.clock()
    ranks = affordable_ranks(bench)
    steps: dict[int, int] = {}
    served = {}
    for node, rank in ranks.items():
        each = step_seconds(world.nodes[node].device, rank, world.protocol)
        steps[node] = int(world.protocol.budget / each)
        served[node] = world.initial(rank)
        if steps[node]:
            outcome = bench.train(node, served[node], server_round=1, steps=steps[node], rate=rate)
            served[node] = outcome.adapter
        clock.seconds = max(clock.seconds, steps[node] * each)
    details = {"ranks": ranks, "steps_by_device": steps}
    return Outcome(clock=clock, served=served, steps=sum(steps.values()), details=details)


def run_tuned(bench: Workbench) -> Outcome:
    """Let every device train alone, at the best of three learning rates for all devices.

    The best by the loss that is reported: no real device could choose so well.
    """
    found = {factor: run_local(bench, rate=factor) for factor in TUNED}

    def loss(factor: float) -> float:
        return sum(bench.held_out(node, one) for node, one in found[factor].served.items())

    best = min(TUNED, key=loss)
    outcome = found[best]
    outcome.details["learning_rate"] = best * bench.world.protocol.learning_rate
    return outcome


def run_untrained(bench: Workbench) -> Outcome:
    served = {node: bench.world.initial(1) for node in bench.world.nodes}
    return Outcome(clock=bench.world.clock(), served=served, steps=0)


_FEDERATED: dict[str, type[Federation]] = {
    each.__name__.lower(): each for each in (FedAvg, HetLora, FlexLora, Flora)
}
_OTHERS: dict[str, Callable[[Workbench], Outcome]] = {
    "floe": run_floe,
    "local": run_local,
    "local_tuned": run_tuned,
    "untrained": run_untrained,
}

NAMES = ("floe", *_FEDERATED, "local", "local_tuned", "untrained")
"""Names of the methods; a federated one but Floe may have ``:int8`` and ``:filled`` after it."""

SAME = ":int8:filled"
"""What gives a method Floe's transport and steps."""

#: FLoRA's first round in float32 does not end within the budget: it trains nothing.
DEFAULT_METHODS = (
    "floe",
    *(name for name in _FEDERATED if name != "flora"),
    *(name + SAME for name in _FEDERATED),
    # The step between the two, for what transport alone changes.
    "flexlora:int8",
    "local",
    "local_tuned",
    "untrained",
)


def method_of(text: str) -> Callable[[Workbench], Outcome] | None:
    """Return what runs a method on a workbench; None if there is no method of this name."""
    parsed = split_name(text)
    if parsed is None:
        return None
    name, way = parsed
    if name in _FEDERATED:
        return partial(_run_federated, name=name, way=way)
    return _OTHERS.get(name) if way == Way() else None


def _run_federated(bench: Workbench, *, name: str, way: Way) -> Outcome:
    return run_rounds(bench, _FEDERATED[name](bench.world, affordable_ranks(bench)), way)
