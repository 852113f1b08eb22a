from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from integration_tests.benchmarks.deadlines.__main__ import main
from integration_tests.benchmarks.pages import draw
from integration_tests.harness.tiny_models import TinyModels


@pytest.mark.timed
def test_a_token_waits_for_the_expert_until_the_deadline_and_no_longer(
    tiny: TinyModels, tmp_path: Path, values_of: Callable[..., Any]
) -> None:
    few = ["--tokens", "16", "--repeats", "1", "--sigma", "0"]
    # Far enough apart that a pause of the machine does not let a late reply be in time.
    far = ["--latencies", "600", "--deadlines", "50", "1800"]
    values = values_of(main, "--host", tiny.host, *few, *far)
    short, long = values["cells"]
    # Five late ones in a row, then the breaker is open.
    assert (short["fused"], short["late"]) == (0, 5 / 16)
    assert short["open"] == pytest.approx(11 / 16)
    assert long["fused"] == 1
    assert long["token_p50_ms"] >= long["latency_ms"] > short["deadline_ms"]
    assert short["slowest_token_ms"] < long["token_p50_ms"] < long["deadline_ms"]
    assert values["host_alone"]["token_p50_ms"] < short["slowest_token_ms"]
    assert short["answer_ms"] > 4 * short["deadline_ms"]
    for cell in values["cells"]:
        assert cell["over_promise_ms"] == pytest.approx(
            cell["slowest_token_ms"] - values["host_alone"]["token_p50_ms"] - cell["deadline_ms"]
        )
        assert cell["over_promise_ms"] < cell["over_longer_ms"] < cell["slowest_token_ms"]
    assert len(values["table"]["rows"]) == 3
    assert "2 of 2 cells" in values["remarks"][0] or "above" in values["remarks"][0]
    draw("deadlines", values, tmp_path / "deadlines.png")
    assert (tmp_path / "deadlines.png").read_bytes()[:4] == b"\x89PNG"
