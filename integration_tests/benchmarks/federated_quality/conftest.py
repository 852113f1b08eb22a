"""The protocol of the benchmark's tests."""

import pytest

from integration_tests.benchmarks.federated_quality import world


@pytest.fixture(scope="package")
def protocol(tiny_model: str) -> world.Protocol:
    """Return six devices with a tiny random model and rounds of a few steps."""
    return world.Protocol(
        model=tiny_model,
        clients=6,
        ranks=(2, 4, 8),
        budget=15.0,
        local_steps=3,
        learning_rate=0.02,
        max_length=48,
        eval_examples=4,
        step_seconds=(0.5, 0.01),
    )
