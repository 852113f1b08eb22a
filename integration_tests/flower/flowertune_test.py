"""FlowerTune's app with `FloeStrategy` and training code of its own, as its page shows it."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from flower_strategy import RunConfig, load_history, load_manifest
from flower_strategy.testing.grids import LocalGrid
from flower_strategy.testing.models import tiny_model
from integration_tests.harness.flower_runs import run_flower_app
from integration_tests.harness.markdown import titled_blocks

__all__ = ["tiny_model"]

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "how-to" / "from-flowertune.md"
PACKAGE = "flowertune_llm"
# Uploads differ by much, so that the ranks do not depend on the machine.
DEVICES = "slow:4:1:0.00001,middle:4:1:0.000022,fast:4:1:0.001"
RANKS = {"slow": 8, "middle": 16, "fast": 32}

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Write the page's app into a folder."""
    pytest.importorskip("trl", reason="The app trains with TRL, which is not installed.")
    pytest.importorskip("datasets", reason="The app reads its rows with datasets.")
    folder = tmp_path / "app"
    (folder / PACKAGE).mkdir(parents=True)
    (folder / PACKAGE / "__init__.py").touch()
    for name, text in titled_blocks(PAGE).items():
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture
def config(tiny_model: str, tmp_path: Path) -> dict[str, str | int | float | bool]:
    """Return what is set otherwise than on the page: a tiny model, few rows, few steps."""
    data = tmp_path / "alpaca.jsonl"
    rows = [
        {"instruction": f"Spell {word} {n} times.", "input": "", "output": f"{word} " * n}
        for word in ("ab", "cd", "ef", "gh")
        for n in range(1, 9)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    arguments = "train.training-arguments."
    return {
        "dataset.name": str(data),
        "model.name": tiny_model,
        # bitsandbytes quantises on a GPU alone.
        "model.quantization": 0,
        "train.learning-rate-max": 5e-3,
        "train.learning-rate-min": 1e-3,
        "train.seq-length": 224,
        arguments + "per-device-train-batch-size": 4,
        arguments + "max-steps": 4,
        arguments + "gradient-checkpointing": False,
        "strategy.fraction-train": 1.0,
        "strategy.fraction-evaluate": 1.0,
        "num-server-rounds": 2,
        "output": str(tmp_path / "results"),
        "devices": DEVICES,
    }


def check_result(folder: Path) -> None:
    """Check that every device has trained at its rank, and that each cluster has learned."""
    manifest, rounds = load_manifest(folder), load_history(folder)["rounds"]
    classes = {str(device["node"]): device["device"] for device in manifest["devices"]}
    assert len(rounds) == 3
    for record in rounds[1:]:
        assert record["refused"] == []
        devices = record["devices"].values()
        ranks = {classes[node]: device["rank"] for node, device in record["devices"].items()}
        assert ranks == RANKS
        assert all(device["train_loss"] > 0 for device in devices)
        assert sum(cluster["replies"] for cluster in record["clusters"].values()) == 3
        # All but the rows that each node holds out.
        assert 0 < sum(device["num_examples"] for device in devices) < 32
    assert manifest["rank"] == 32
    for cluster in manifest["clusters"]:
        assert cluster["loss_after"] < cluster["loss_before"]
        adapter = folder / cluster["adapter"]
        factors = load_file(adapter / "adapter_model.safetensors")
        moved = [name for name, factor in factors.items() if "lora_B" in name and factor.any()]
        assert len(moved) == len(factors) // 2 == 14
        model = AutoModelForCausalLM.from_pretrained(manifest["base_model_path"])
        loaded = PeftModel.from_pretrained(model, str(adapter)).peft_config["default"]
        assert loaded.r == 32


def test_the_app_runs_in_process(
    app: Path,
    config: dict[str, str | int | float | bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same as in Flower, save for its processes: what fails here is the app's or Floe's."""
    monkeypatch.setattr("flower_strategy.device.training_cost.cache_dir", lambda: tmp_path)
    monkeypatch.setattr("flower_strategy.device.embedding_noise.state_dir", lambda: tmp_path)
    monkeypatch.syspath_prepend(app)
    written = tomllib.loads((app / "pyproject.toml").read_text("utf-8"))
    run_config = {**flat(written["tool"]["flwr"]["app"]["config"]), **config}
    assert config.keys() <= run_config.keys()
    context = Context(
        run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=run_config
    )
    try:
        nodes = import_module(f"{PACKAGE}.client_app").app
        grid = LocalGrid(run_config, 3, client_app=nodes)
        import_module(f"{PACKAGE}.server_app").app(grid, context)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]
    check_result(Path(str(config["output"])))


def test_the_app_runs_in_flower_s_simulation(
    app: Path, config: dict[str, str | int | float | bool], tmp_path: Path
) -> None:
    # One process for all nodes, which imports TRL once: training takes less than that.
    cores = os.cpu_count() or 1
    result = run_flower_app(app, config, 3, tmp_path / "flower", cpus_per_client=cores)
    assert result.ok, "\n".join(result.lines[-30:])
    check_result(Path(str(config["output"])))


def test_every_key_of_the_app_has_its_row() -> None:
    page = PAGE.read_text("utf-8")
    table = page.partition("\n## The keys, side by side\n")[2].partition("\n## ")[0]
    theirs = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = re.findall(r"`([^`]+)`", " ".join(theirs))
    assert len(named) == len(set(named))
    written = tomllib.loads(titled_blocks(PAGE)["pyproject.toml"])["tool"]["flwr"]["app"]["config"]
    # The last two are the app's own.
    assert flat(written).keys() - {"output", "devices"} <= set(named)


def test_every_key_that_the_table_names_is_one_of_floe_s() -> None:
    page = PAGE.read_text("utf-8")
    table = page.partition("\n## The keys, side by side\n")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    ours = re.findall(r"`([^`]+)`", " ".join(row[2] for row in rows))
    assert len(ours) > 20
    assert set(ours) <= RunConfig.names().keys()


def test_the_results_say_what_the_page_says_of_them() -> None:
    quality = json.loads((DOCS / "results" / "federated_quality.json").read_text("utf-8"))
    for methods in quality["levels"].values():
        floe, theirs = methods["floe"], methods["fedavg"]
        for other in ("local", "flexlora:int8:filled", "fedavg"):
            assert floe["loss_mean"] < methods[other]["loss_mean"]
        assert floe["megabytes_up"] > theirs["megabytes_up"]
    overhead = json.loads((DOCS / "results" / "round_overhead.json").read_text("utf-8"))
    assert overhead["server_s"] > overhead["fedavg_server_s"]


def flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a section's keys as Flower names them, with a dot between the levels."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found
