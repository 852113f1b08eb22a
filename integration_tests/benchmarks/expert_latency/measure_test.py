"""Steps at real servers, and what is made of figures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from integration_tests.benchmarks.cli import Namespace
from integration_tests.benchmarks.expert_latency.__main__ import main
from integration_tests.benchmarks.expert_latency.result import result
from integration_tests.benchmarks.pages import draw


def test_every_size_is_measured(tmp_path: Path, values_of: Callable[..., Any]) -> None:
    few = ["--contexts", "32", "--streams", "1", "2", "--top-k", "5", "--steps", "4"]
    values = values_of(main, "--ways", "llama.cpp", *few)
    one, two = values["cases"]
    assert [(each["context"], each["streams"], each["k"]) for each in (one, two)] == [
        (32, 1, 5),
        (32, 2, 5),
    ]
    for each in (one, two):
        assert each["server"] == "llama.cpp"
        assert 0 < each["ms_per_step"] <= each["p90_ms"]
        # Headers are counted.
        assert each["bytes_up"] > 100
    # Two texts of 32 tokens are more than one.
    assert one["bytes_up"] + 64 < two["bytes_up"]
    assert one["bytes_down"] + 100 < two["bytes_down"]
    draw("expert_latency", values, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_servers_are_compared_with_the_first() -> None:
    size = {"k": 20, "context": 200, "streams": 8, "p90_ms": 9.0}
    cases = [
        {"server": "vllm", "ms_per_step": 80.0, "bytes_up": 8000.0, "bytes_down": 800.0, **size},
        {"server": "llama.cpp", "ms_per_step": 20.0, "bytes_up": 800.0, "bytes_down": 80.0, **size},
    ]
    found = result({"cases": cases, "steps": 4}, Namespace())
    assert [row[0] for row in found.rows] == ["vllm", "llama.cpp"]
    assert found.remarks[1] == (
        "200 tokens, 8 streams, K 20: llama.cpp takes 0.25 times as long as vllm and is sent 0.10 "
        "times the bytes, 100 up and 10 down a token and stream."
    )
