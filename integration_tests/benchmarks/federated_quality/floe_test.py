"""Floe in the benchmark: its rounds, and what its devices end with."""

from dataclasses import replace

import numpy as np
import pytest

from flower_strategy.adapters import int8
from integration_tests.benchmarks.federated_quality import world
from integration_tests.benchmarks.federated_quality.floe import (
    affordable_ranks,
    run_floe,
    schedule,
)


@pytest.fixture(scope="module")
def bench(protocol: world.Protocol) -> world.Workbench:
    return world.Workbench(world.World(replace(protocol, clients=3), level=1.0, seed=0))


def test_rounds_are_as_many_as_give_the_slowest_device_a_step_in_each(
    bench: world.Workbench,
) -> None:
    # A phone's step at rank 2 takes 1.56 s, and messages little.
    protocol = bench.world.protocol
    try:
        for budget, expected in ((15.0, 3), (3.6, 2), (1.5, 0)):
            bench.world.protocol = replace(protocol, budget=budget)
            rounds, seconds = schedule(bench.world)
            assert rounds == expected
            assert seconds == pytest.approx(budget / rounds if rounds else 1.56, rel=0.05)
        outcome = run_floe(bench)
        assert (outcome.steps, outcome.clock.seconds) == (0, 0.0)
    finally:
        bench.world.protocol = protocol


def test_devices_fill_the_budget_and_end_with_more_than_their_clusters_adapter(
    bench: world.Workbench,
) -> None:
    ranks = affordable_ranks(bench)
    outcome = run_floe(bench)
    assert outcome.details["ranks"] == ranks == {0: 4, 1: 8, 2: 8}
    clock, protocol = outcome.clock, bench.world.protocol
    assert clock.rounds == 3
    assert 0.85 * protocol.budget < clock.seconds <= protocol.budget
    assert clock.idle < 0.15
    # A laptop steps more often than a phone, which the three steps are for.
    assert outcome.steps > 3 * (3 + 3 + 3)
    # Nothing travels down before the first round, and the result does after the last.
    sizes = int8.bytes_per_rank(bench.world.shapes)
    assert clock.bytes_up == 3 * sum(ranks.values()) * sizes
    assert clock.bytes_down == 3 * 3 * bench.world.config.export_rank * sizes
    untrained = bench.world.initial(1)
    for node, served in outcome.served.items():
        assert bench.held_out(node, served) < bench.held_out(node, untrained)
    # They have one cluster, and what eight bits have left out is on each device.
    first, second = (outcome.served[node] for node in (0, 1))
    layer = next(iter(first.layers))
    apart = np.linalg.norm(first.delta(layer) - second.delta(layer))
    assert 0 < apart < 0.1 * np.linalg.norm(first.delta(layer))


def test_devices_of_few_examples_validate_and_choose(bench: world.Workbench) -> None:
    protocol = replace(bench.world.protocol, examples=8)
    few = world.Workbench(world.World(protocol, level=1.0, seed=0))
    for place in few.world.nodes.values():
        assert (len(place.data.train), len(place.data.validation)) == (7, 1)
        # Methods that do not validate train on all of them.
        assert len(place.examples) == 8
    outcome = run_floe(few)
    assert outcome.details["keeps"].keys() == {0, 1, 2}
    assert outcome.clock.rounds == 3
    untrained = few.world.initial(1)
    for node, served in outcome.served.items():
        assert few.held_out(node, served) < few.held_out(node, untrained)
