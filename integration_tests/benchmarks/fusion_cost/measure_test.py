from __future__ import annotations

import json

import numpy as np
import pytest

from integration_tests.benchmarks.fusion_cost import measure as fusion_cost


def test_cases_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--synthetic", "--rows", "1", "3", "--vocabulary", "4000", "--k", "20"]
    assert fusion_cost.main([*options, "--repeats", "3", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
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
    pair = fusion_cost.synthetic(20_000, k=100, rows=4)
    sizes = np.diff(pair.maps.offsets)
    assert 0.05 < sizes.max() / 20_000 < 0.2
    assert np.median(sizes) <= 2
    assert pair.top.token_ids.shape == (4, 100)
    assert (np.exp(pair.top.logprobs).sum(axis=1) < 1 + 1e-9).all()


def test_what_is_out_of_range_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fusion_cost.main(["--rows", "0"])
    assert "at least 1" in capsys.readouterr().err
