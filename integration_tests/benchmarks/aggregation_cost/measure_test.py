import json
import subprocess
import sys
from typing import Any

import pytest

from flower_strategy.testing.models import tiny_model

__all__ = ["tiny_model"]

NAMES = ("aggregation_cost", "round_overhead")


def run(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"integration_tests.benchmarks.{name}", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=540, check=False)


def figures(name: str, *options: str) -> dict[str, Any]:
    result = run(name, *options, "--json")
    assert result.returncode == 0, result.stderr[-3000:]
    values: dict[str, Any] = json.loads(result.stdout)
    return values


@pytest.mark.parametrize("name", NAMES)
def test_help_names_the_module_and_json(name: str) -> None:
    result = run(name, "--help")
    assert result.returncode == 0
    assert f"python -m integration_tests.benchmarks.{name}" in result.stdout
    assert "--json" in result.stdout


@pytest.mark.parametrize("clients", [3, 100])
def test_aggregation_cost_measures_one_case(clients: int) -> None:
    (case,) = figures(
        "aggregation_cost", "--size", "96x160", "--clients", str(clients), "--repeats", "2"
    )["cases"]
    assert (case["m"], case["n"], case["clients"]) == (96, 160, clients)
    assert 4 * clients <= case["stacked_rank"] <= 32 * clients
    assert 0 < case["floor_s"] < case["factored_s"]
    assert case["speedup"] == pytest.approx(case["dense_s"] / case["factored_s"])
    assert 0 < case["relative_error"] < 1e-4
    # The float32 matrix alone is 0.06 MB; 100 replies are 1.8 MB.
    assert 0.06 < case["peak_mb"] < 3
    assert 0 < case["discarded_energy"] < 1


def test_aggregation_cost_refuses_what_is_no_size() -> None:
    result = run("aggregation_cost", "--size", "large")
    assert result.returncode == 2
    assert "--size is MxN such as 2048x2048, not 'large'" in result.stderr


def test_round_overhead_compares_whole_rounds(
    tiny_model: str,
) -> None:
    values = figures(
        "round_overhead",
        *("--model", tiny_model, "--rounds", "2", "--clients", "2", "--rank", "8"),
        *("--local-steps", "1", "--repeats", "1"),
    )
    assert values["ratio"] == pytest.approx(values["round_s"] / values["fedavg_round_s"])
    for server, own in (("floe", "server_s"), ("fedavg", "fedavg_server_s")):
        rounds = values["all_rounds"][server]
        assert len(rounds) == 2
        assert all(0 < one["server_s"] < one["seconds"] for one in rounds)
        assert 0 < values[own] < 5
