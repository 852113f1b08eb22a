from collections.abc import Callable
from typing import Any

import pytest

from integration_tests.benchmarks.aggregation_cost.__main__ import main


@pytest.mark.parametrize("clients", [3, 100])
def test_aggregation_cost_measures_one_case(clients: int, values_of: Callable[..., Any]) -> None:
    options = ["--size", "96x160", "--clients", str(clients), "--repeats", "2"]
    (case,) = values_of(main, *options)["cases"]
    assert (case["m"], case["n"], case["clients"]) == (96, 160, clients)
    assert 4 * clients <= case["stacked_rank"] <= 32 * clients
    assert 0 < case["floor_s"] < case["factored_s"]
    assert case["speedup"] == pytest.approx(case["dense_s"] / case["factored_s"])
    assert 0 < case["relative_error"] < 1e-4
    # The float32 matrix alone is 0.06 MB; 100 replies are 1.8 MB.
    assert 0.06 < case["peak_mb"] < 3
    assert 0 < case["discarded_energy"] < 1
