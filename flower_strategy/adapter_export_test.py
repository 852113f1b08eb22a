from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from floe_plugins.cli import main
from flower_strategy.adapters.adapter import initial_adapter
from flower_strategy.adapters.gguf_lora import GGUF_FILE
from flower_strategy.adapters.peft_folder import load_adapter, save_adapter
from flower_strategy.clusters import Cluster
from flower_strategy.device.base_model import adapted_shapes
from flower_strategy.ranks.cost import RankDecision
from flower_strategy.ranks.policies import DeadlinePolicy
from flower_strategy.run_folder import load_manifest
from flower_strategy.server.export import export_run
from flower_strategy.server.log import log_export
from flower_strategy.server.records import RoundRecord
from flower_strategy.server.state import RunState
from flower_strategy.settings import ClusteringSettings, EmbeddingSettings, TrainingSettings
from flower_strategy.testing.architectures import write_checkpoint
from flower_strategy.testing.models import make_profile


def make_run(model: str, folder: Path) -> Path:
    """Write the result of a run with two clusters."""
    state = RunState(initial=initial_adapter(adapted_shapes(model), rank=2, seed=0))
    state.profiles = {0: make_profile(), 1: make_profile()}
    state.decisions = {node: RankDecision(2, 1.0, "it fits") for node in state.profiles}
    middle = state.profiles[0].embedding
    state.clusters = [Cluster(f"cluster-{node}", middle, (node,)) for node in state.profiles]
    state.cluster_adapters = {cluster.name: state.initial for cluster in state.clusters}
    state.history = [RoundRecord(round=1)]
    export_run(
        state,
        folder,
        training=TrainingSettings(model=model),
        rank=8,
        policy=DeadlinePolicy(candidates=(2,)),
        embedding=EmbeddingSettings(),
        clustering=ClusteringSettings(),
    )
    return folder


@pytest.fixture(scope="module")
def run(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tiny_model, tmp_path_factory.mktemp("run"))


def test_a_run_has_a_gguf_file_beside_pefts(run: Path, log: pytest.LogCaptureFixture) -> None:
    for name in ("cluster-0", "cluster-1"):
        tensors = GGUFReader(run / name / GGUF_FILE).tensors
        assert len(tensors) == len(load_file(run / name / "adapter_model.safetensors"))
    manifest = load_manifest(run)
    assert manifest["gguf"]["written"] is True
    log_export(run, manifest)
    assert "llama.cpp loads the adapter_model.gguf beside each on a base of llama." in log.text


def test_a_run_of_a_model_that_has_no_gguf_keeps_its_peft_adapters_and_says_why(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    run = make_run(write_checkpoint("gpt2", tmp_path / "gpt2"), tmp_path / "run")
    manifest = load_manifest(run)
    names = {path.name for path in (run / "cluster-1").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert GGUF_FILE not in names
    assert manifest["gguf"]["written"] is False
    log_export(run, manifest)
    (warning,) = [record for record in log.records if record.levelno == logging.WARNING]
    assert warning.getMessage() == manifest["gguf"]["says"]
    assert "models of type 'gpt2'" in warning.getMessage()


def test_gguf_files_are_written_again_beside_pefts(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "cluster-1" / GGUF_FILE).read_bytes()
    (run / "cluster-1" / GGUF_FILE).unlink()
    assert main(["adapter", "export", str(run), "--to", "gguf"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"cluster-{number}  {run}/cluster-{number}/{GGUF_FILE}" for number in range(2)
    ]
    assert (run / "cluster-1" / GGUF_FILE).read_bytes() == before
    assert not list(run.rglob("*.part"))


def test_adapters_are_exported_into_a_folder(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for to, path in (("gguf", "cluster-0.gguf"), ("peft", "cluster-0")):
        out = tmp_path / "new" / to
        arguments = ["adapter", "export", str(run), "--to", to, "--out", str(out), "--json"]
        assert main(arguments) == 0
        assert json.loads(capsys.readouterr().out)[0] == {
            "name": "cluster-0",
            "path": str(out / path),
        }
    gguf = (tmp_path / "new" / "gguf" / "cluster-0.gguf").read_bytes()
    assert gguf == (run / "cluster-0" / GGUF_FILE).read_bytes()
    copied = tmp_path / "new" / "peft" / "cluster-0"
    assert load_adapter(copied).rank == 8
    assert not (copied / GGUF_FILE).exists()
    # A second time it would be written over.
    assert main(arguments) == 2
    assert f"{out} cannot be written (Directory not empty)" in capsys.readouterr().err


def test_one_adapter_that_peft_made_is_exported_with_its_scaling(
    tiny_model: str, tmp_path: Path
) -> None:
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        LoraConfig(
            r=4,
            lora_alpha=6,
            use_rslora=True,
            init_lora_weights=False,
            target_modules=["v_proj"],
            task_type="CAUSAL_LM",
        ),
    )
    model.save_pretrained(str(tmp_path / "mine"))
    assert main(["adapter", "export", str(tmp_path / "mine"), "--to", "gguf"]) == 0
    tensors = {
        each.name: each.data.astype("f4")
        for each in GGUFReader(tmp_path / "mine" / GGUF_FILE).tensors
    }
    a, b = (tensors[f"blk.0.attn_v.weight.lora_{end}"] for end in "ab")
    layer = model.base_model.model.model.layers[0].self_attn.v_proj
    expected = layer.get_delta_weight("default").detach().numpy()
    np.testing.assert_allclose(b @ a, expected, atol=0.002)
    assert np.abs(expected).max() > 0.2


def test_what_cannot_be_exported_is_said_in_one_sentence(
    tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = initial_adapter(adapted_shapes(tiny_model), rank=2, seed=0)

    def said(*arguments: str) -> str:
        assert main(["adapter", *arguments]) == 2
        return capsys.readouterr().err

    one = tmp_path / "one"
    save_adapter(adapter, one, rank=2, base_model=tiny_model)
    config = json.loads((one / "adapter_config.json").read_text())
    for changes, message in (
        ({"alpha_pattern": {"q_proj": 1}}, "has alpha_pattern={'q_proj': 1}; Floe reads"),
        ({"use_dora": True}, "has use_dora=True"),
        ({"peft_type": "IA3"}, "is not the configuration of a LoRA adapter"),
        ({"r": 0}, "has r=0; a number above 0 is needed"),
        ({"base_model_name_or_path": None}, "the folder names none"),
    ):
        (one / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        assert message in said("export", str(one), "--to", "gguf")
    (one / "adapter_config.json").write_text("{")
    assert "adapter_config.json is no JSON" in said("export", str(one), "--to", "gguf")
    (one / "adapter_config.json").write_text(json.dumps(config))
    (one / "adapter_model.safetensors").write_bytes(b"no tensors")
    assert "adapter_model.safetensors is damaged" in said("export", str(one), "--to", "gguf")
    assert "holds no manifest.json" in said("export", str(tmp_path), "--to", "gguf")
    assert "Write `floe-llm adapter export RUN_DIR --to gguf`" in said("export", str(one))
    assert "--to is an option of" in said(str(one), "some text", "--to", "gguf")
