from collections.abc import Callable
from typing import Any

import pytest

from integration_tests.benchmarks.round_overhead.__main__ import main


def test_round_overhead_compares_whole_rounds(
    tiny_model: str, values_of: Callable[..., Any]
) -> None:
    few = ["--rounds", "2", "--clients", "2", "--rank", "8", "--local-steps", "1"]
    values = values_of(main, "--model", tiny_model, *few, "--repeats", "1")
    assert values["ratio"] == pytest.approx(values["round_s"] / values["fedavg_round_s"])
    for server, own in (("floe", "server_s"), ("fedavg", "fedavg_server_s")):
        rounds = values["all_rounds"][server]
        assert len(rounds) == 2
        assert all(0 < one["server_s"] < one["seconds"] for one in rounds)
        assert 0 < values[own] < 5
