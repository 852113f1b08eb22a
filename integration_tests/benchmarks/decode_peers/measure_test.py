from __future__ import annotations

import json

import pytest

from integration_tests.benchmarks.decode_peers import measure as decode_peers
from integration_tests.harness.tiny_models import TinyModels

pytestmark = pytest.mark.timeout(600)


def test_both_orders_are_measured(tiny: TinyModels, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--latency", "1", "--tokens", "16", "--repeats", "1"]
    assert decode_peers.main(["--host", tiny.host, "--expert", tiny.host, *few, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["expert"] == "canned, 1.0 steps"
    assert values["ratio"] == pytest.approx(
        values["floe_tokens_per_s"] / values["sequential_tokens_per_s"]
    )
    assert 0 < values["sequential_tokens_per_s"] < values["host_tokens_per_s"]


def test_what_is_out_of_range_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        decode_peers.main(["--repeats", "0"])
    assert "at least 1" in capsys.readouterr().err
