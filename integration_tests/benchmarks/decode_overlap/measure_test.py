from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from integration_tests.benchmarks.decode.timed_processor import outside_share
from integration_tests.benchmarks.decode_overlap.__main__ import main
from integration_tests.harness.interpreted_servers import DRAFTS
from integration_tests.harness.tiny_models import TinyModels


@pytest.mark.timed
def test_an_expert_that_takes_five_steps_is_waited_for(
    tiny: TinyModels, values_of: Callable[..., Any]
) -> None:
    few = ["--tokens", "16", "--repeats", "1", "--parts", "overlap", "--latencies", "5"]
    values = values_of(main, "--host", tiny.host, *few)
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


@pytest.mark.skipif(not DRAFTS, reason="the V2 runner drafts beside Floe from vLLM 0.32 on")
def test_whoever_drafts_the_text_is_the_same(
    tiny: TinyModels, tiny_model: str, values_of: Callable[..., Any]
) -> None:
    models = ["--drafting-host", tiny.host, "--drafting-expert", tiny_model]
    values = values_of(main, "--parts", "drafts", *models, "--drafting-tokens", "24")
    found = values["drafts"]
    assert found["step_ms"] > 0
    assert [(case["text"], case["way"]) for case in found["cases"]] == [
        (text, way)
        for text in ("structured", "free")
        for way in ("one", "look-ahead", "n-grams", "model")
    ]
    assert all(case["texts_equal"] for case in found["cases"])
    calls = {(case["text"], case["way"]): case["calls_per_token"] for case in found["cases"]}
    for text in ("structured", "free"):
        # The first distribution may be there already: the prompt was asked about before.
        assert 0.9 <= calls[text, "one"] <= 1
        # Never more than one call a step, which gives a token or more.
        assert all(0 < calls[text, way] <= 1.05 for way in ("look-ahead", "n-grams", "model"))
    assert len(values["remarks"]) == 2
