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
def bench(tiny_model: str) -> world.Workbench:
    protocol = world.Protocol(
        model=tiny_model,
        clients=3,
        ranks=(2, 4, 8),
        budget=15.0,
        learning_rate=0.02,
        max_length=48,
        eval_examples=4,
        step_seconds=(0.5, 0.01),
    )
    return world.Workbench(world.World(protocol, level=1.0, seed=0))


def test_the_slowest_device_gets_as_many_steps_as_fit_all_rounds(bench: world.Workbench) -> None:
    # 5 seconds, less what a message takes, and 1.56 for a phone's step at rank 2.
    assert schedule(bench.world) == (3, 3)
    protocol = bench.world.protocol
    try:
        bench.world.protocol = replace(protocol, budget=3.6)
        assert schedule(bench.world) == (2, 1)
        bench.world.protocol = replace(protocol, budget=1.5)
        assert schedule(bench.world) == (0, 0)
        outcome = run_floe(bench)
        assert (outcome.steps, outcome.clock.seconds) == (0, 0.0)
    finally:
        bench.world.protocol = protocol


def test_devices_fill_the_budget_and_end_with_more_than_their_clusters_adapter(
    bench: world.Workbench,
) -> None:
    ranks = affordable_ranks(bench)
    outcome = run_floe(bench)
    assert outcome.details["ranks"] == ranks == {0: 2, 1: 4, 2: 8}
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
