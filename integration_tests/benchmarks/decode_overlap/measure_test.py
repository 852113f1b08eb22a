from __future__ import annotations

import json
from pathlib import Path

import pytest

from integration_tests.benchmarks.decode.timed_processor import outside_share
from integration_tests.benchmarks.decode_overlap import measure as decode_overlap
from integration_tests.harness.tiny_models import TinyModels

pytestmark = pytest.mark.timeout(600)


def test_an_expert_that_takes_five_steps_is_waited_for(
    tiny: TinyModels, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--tokens", "16", "--repeats", "1", "--parts", "overlap", "--latencies", "5"]
    assert decode_overlap.main(["--host", tiny.host, *few, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    (case,) = values["cases"]
    assert case["latency_over_step"] == 5
    assert 0 < case["throughput_ratio"] < 0.8
    assert case["of_slower"] > case["throughput_ratio"]
    assert case["step_ms"] > 0
    assert 0 < values["outside_share"] < 1


def test_the_share_outside_is_that_of_medians(tmp_path: Path) -> None:
    times = tmp_path / "times"
    # An idle time between two requests does not count.
    times.write_text("0.1 0.3\n50.0 0.3\n0.1 0.4\n0.1 0.3\n")
    assert outside_share(times) == pytest.approx(0.25)


def test_what_is_out_of_range_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        decode_overlap.main(["--tokens", "2"])
    assert "--tokens is at least 8" in capsys.readouterr().err
