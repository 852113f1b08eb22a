from collections.abc import Callable
from typing import Any

import pytest

from integration_tests.benchmarks.decode_peers.__main__ import main
from integration_tests.harness.tiny_models import TinyModels


@pytest.mark.timed
def test_both_orders_are_measured(tiny: TinyModels, values_of: Callable[..., Any]) -> None:
    few = ["--latency", "1", "--tokens", "16", "--repeats", "1"]
    values = values_of(main, "--host", tiny.host, "--expert", tiny.host, *few)
    assert values["expert"] == "canned, 1.0 steps"
    assert values["ratio"] == pytest.approx(
        values["floe_tokens_per_s"] / values["sequential_tokens_per_s"]
    )
    assert 0 < values["sequential_tokens_per_s"] < values["host_tokens_per_s"]
