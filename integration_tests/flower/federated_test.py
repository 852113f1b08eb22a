"""Real Flower runs: on real text with the real model, and with a user's own app."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import psutil
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from flower_strategy import load_history, load_manifest
from flower_strategy.testing.models import tiny_model
from integration_tests.harness.flower_runs import run_flower_app
from integration_tests.harness.markdown import titled_blocks

__all__ = ["tiny_model"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "own-flower-app.md"
SHARED = ("../shared/data/gsm8k_train.jsonl", "../shared/data/pubmedqa_train.jsonl")

pytestmark = pytest.mark.timeout(900)


def check_adapters_load(manifest: dict[str, Any], folder: Path) -> None:
    for cluster in manifest["clusters"]:
        model = AutoModelForCausalLM.from_pretrained(manifest["base_model_path"])
        adapted = PeftModel.from_pretrained(model, str(folder / cluster["adapter"]))
        config = adapted.peft_config["default"]
        assert config.r == config.lora_alpha == manifest["rank"]
        assert not config.rank_pattern


@pytest.mark.skipif(
    not all((ROOT / path).is_file() for path in SHARED),
    reason=f"the data sets {', '.join(SHARED)} are not beside this checkout",
)
def test_real_text_lowers_the_held_out_loss_in_every_cluster(tmp_path: Path) -> None:
    output = tmp_path / "run"
    config: dict[str, str | int | float | bool] = {
        "data": ",".join(SHARED),
        "rounds": 1,
        "local-steps": 2,
        # Two passes over so few are seven steps: a laptop would take some thirty.
        "max-examples": 16,
        "eval-examples": 4,
        "output": str(output),
        "devices": "phone,laptop",
    }
    result = run_flower_app(ROOT, config, 4, tmp_path / "flower")
    assert result.ok, "\n".join(result.lines[-30:])
    manifest = load_manifest(output)
    labels = {device["node"]: device["label"] for device in manifest["devices"]}
    tasks = [{labels[node] for node in cluster["members"]} for cluster in manifest["clusters"]]
    assert sorted(tasks, key=str) == [{"gsm8k_train"}, {"pubmedqa_train"}]
    for cluster in manifest["clusters"]:
        assert cluster["loss_after"] < cluster["loss_before"]
    ranks = {(device["device"], device["rank"]) for device in manifest["devices"]}
    assert ranks == {("phone", 4), ("laptop", 32)}
    check_adapters_load(manifest, output)


def test_an_app_of_ones_own_is_short_and_runs(tiny_model: str, tmp_path: Path) -> None:
    files = titled_blocks(PAGE)
    assert {"pyproject.toml", "server_app.py", "client_app.py"} <= set(files)
    code = [text for name, text in files.items() if name.endswith(".py")]
    assert sum(len(text.splitlines()) for text in code) < 40
    app, output = tmp_path / "app", tmp_path / "run"
    app.mkdir()
    for name, text in files.items():
        (app / name).write_text(text)
    config = {"model": tiny_model, "output": str(output)}
    result = run_flower_app(app, config, 3, tmp_path / "flower")
    assert result.ok, "\n".join(result.lines[-30:])
    manifest = load_manifest(output)
    # The engine's nodes are simulated, though nothing in their configuration says so.
    devices = sorted(device["device"] for device in manifest["devices"])
    assert devices == ["laptop", "phone", "phone"]
    assert len(load_history(output)["rounds"]) == 3
    check_adapters_load(manifest, output)


def test_a_wrong_key_stops_the_run_with_one_sentence(tmp_path: Path) -> None:
    result = run_flower_app(ROOT, {"learning-rate": -1.0}, 2, tmp_path / "flower")
    assert not result.ok
    assert any("learning-rate" in line and "-1.0" in line for line in result.lines)


def test_absent_data_end_the_run_with_the_absolute_path_and_no_process_stays(
    tiny_model: str, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in ("pyproject.toml", "flower_strategy", "floe_plugins"):
        (project / name).symlink_to(ROOT / name)
    home = tmp_path / "flower"
    result = run_flower_app(project, {"data": "../nothing.jsonl", "model": tiny_model}, 2, home)
    assert not result.ok
    told = f"tried {(tmp_path / 'nothing.jsonl').resolve()}"
    (said,) = (line for line in result.lines if "ERROR" in line and told in line)
    assert "Run configuration data='../nothing.jsonl' does not exist" in said
    # By the server, before it sends anything: only Flower's traceback follows.
    assert not any("Starting FloeStrategy" in line for line in result.lines)
    assert sum("Traceback" in line for line in result.lines) == 1
    assert processes_of(home) == []


def test_a_run_that_takes_too_long_is_ended_with_all_its_processes(tmp_path: Path) -> None:
    home = tmp_path / "flower"
    result = run_flower_app(ROOT, {}, 2, home, timeout=8)
    assert result.status == "timeout"
    assert result.seconds < 60
    assert processes_of(home) == []


def processes_of(home: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("FLWR_HOME") == str(home) and process.status() != "zombie":
                found.append(" ".join(process.cmdline())[:120])
    return found
