"""The kit on a CPU with small sizes, and on a GPU where there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from flower_strategy.testing.models import tiny_model  # noqa: F401
from integration_tests.gpu_check import __main__ as program
from integration_tests.gpu_check import page as pages
from integration_tests.gpu_check.sizes import SMALL, Sizes
from integration_tests.gpu_check.subjects import SUBJECTS, run
from vllm_logits_processor.testing.interpreted import kernel_device

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SUBJECTS)
def test_on_a_gpu(name: str) -> None:
    found = run(name, torch.device("cuda"), Sizes())
    if found["state"] == "not run":
        pytest.skip(found["reason"])
    assert found["state"] == "passed", found["failures"]


@pytest.mark.parametrize("name", ["kernels", "slots", "steps"])
def test_the_kit_runs_with_small_sizes(name: str) -> None:
    found = run(name, kernel_device(), SMALL)
    assert found["state"] == "passed", found
    assert found["values"]["cases"]


def test_experts_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    from integration_tests.gpu_check import local_expert

    monkeypatch.setattr(local_expert, "SMOLLM2", "nowhere:this")
    found = run("local_expert", torch.device("cpu"), SMALL)
    assert found["state"] == "passed", found
    assert found["values"]["model"] == "random weights"
    assert found["values"]["error"] == 0.0


def test_training_is_compared(
    tiny_model: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from integration_tests.gpu_check import training

    monkeypatch.setattr(training, "SMOLLM2", tiny_model)
    found = run("training", torch.device("cpu"), SMALL)
    assert found["state"] == "passed", found
    assert found["values"]["adapters_apart"] < 1e-6


def test_what_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    found = run("serving", torch.device("cpu"), SMALL)
    assert found["state"] == "not run"
    assert "vllm" in found["reason"]


@pytest.mark.parametrize(
    ("name", "values", "count"),
    [
        (
            "kernels",
            {
                "errors": {"masked": 1.0},
                "cases": [
                    {
                        "rows": 8,
                        "k": 20,
                        "error": float("nan"),
                        "held_alike": False,
                        "written_error": 1.0,
                        "waits": 2,
                        "bytes": 2**30,
                    }
                ],
            },
            6,
        ),
        (
            "slots",
            {"forward_ms": 200, "cases": [{"slots": 8, "right": False, "longest_ms": 190}]},
            2,
        ),
        ("steps", {"cases": [{"forward_ms": 8, "latency": 1, "fused": 0.5}]}, 1),
        ("local_expert", {"error": float("nan")}, 1),
        ("training", {"losses": [1.0, 2.0], "adapters_apart": float("nan")}, 2),
        ("serving", {"same": {"V2 = V1": False}, "fusion_shows": False}, 2),
    ],
)
def test_what_is_not_as_it_must_be_fails(name: str, values: dict[str, Any], count: int) -> None:
    kernel_device()
    subject = __import__(f"integration_tests.gpu_check.{name}", fromlist=[name])
    assert len(subject.failures(values)) == count


def test_one_file_has_all_results_and_makes_the_page(tmp_path: Path) -> None:
    file, page = tmp_path / "found.json", tmp_path / "page.md"
    assert program.main(["--device", "cpu", "--only", "slots", "--out", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["subjects"]["slots"]["state"] == "passed"
    assert pages.main([str(file), str(page)]) == 0
    # Figures of a CPU are no results.
    assert page.read_text() == pages.NONE_YET
    found["device"] = "cuda"
    text = pages.page(found)
    assert "| slots | right | longest ms |" in text
    assert "Passed." in text


@pytest.mark.timeout(600)
def test_an_engine_answers_as_a_variant_asks(tmp_path: Path) -> None:
    """V1 on a CPU: the variants that differ by the runner need a GPU."""
    from integration_tests.gpu_check import serving
    from integration_tests.harness.tiny_models import canned_expert, make_models

    models = make_models(tmp_path)
    engine = {"enforce_eager": True, "dtype": "float32", "block_size": 32}
    environment = {"VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with canned_expert(models) as expert:
        variant = serving.Variant(mode="host", engine=engine, environment=environment)
        found = serving.run(variant, models, expert, tmp_path)
        asked = [request for request in expert.requests if "prompt" in request]
    assert [len(tokens) for tokens in found["tokens"]] == [24] * 4
    assert found["seconds"] > 0
    assert not asked


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(["--out", str(tmp_path / "none.json")]) == 2
    assert "no GPU" in capsys.readouterr().err
    assert not (tmp_path / "none.json").exists()


def test_the_published_page_is_that_of_the_published_figures() -> None:
    file = pages.PAGE.with_suffix(".json")
    found = json.loads(file.read_text()) if file.exists() else None
    assert pages.PAGE.read_text() == pages.page(found)
