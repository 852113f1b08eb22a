from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from integration_tests.benchmarks.fusion_cost.__main__ import main
from integration_tests.benchmarks.fusion_cost.measure import synthetic


def test_cases_are_measured(values_of: Callable[..., Any]) -> None:
    few = ["--rows", "1", "3", "--vocabulary", "4000", "--k", "20", "--repeats", "3"]
    values = values_of(main, "--synthetic", *few)
    assert {"aim", "run", "table", "remarks", "machine"} <= set(values)
    assert values["maps"] == "synthetic"
    assert [(case["rows"], case["vocabulary"], case["k"]) for case in values["cases"]] == [
        (1, 4000, 20),
        (3, 4000, 20),
    ]
    for case in values["cases"]:
        assert case["ratio"] == pytest.approx(case["apply_ms"] / case["log_softmax_ms"])
        assert case["ratio_ready"] == pytest.approx(case["apply_ms"] / case["log_softmax_ready_ms"])
        assert 20 <= case["members"] < 4000
        assert case["floor_ms"] > 0


def test_synthetic_maps_have_the_shape_of_real_ones() -> None:
    pair = synthetic(20_000, k=100, rows=4)
    sizes = np.diff(pair.maps.offsets)
    assert 0.05 < sizes.max() / 20_000 < 0.2
    assert np.median(sizes) <= 2
    assert pair.top.token_ids.shape == (4, 100)
    assert (np.exp(pair.top.logprobs).sum(axis=1) < 1 + 1e-9).all()
