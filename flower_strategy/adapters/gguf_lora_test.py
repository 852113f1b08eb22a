from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from flower_strategy.adapters.adapter import AdapterState, LoraFactors
from flower_strategy.adapters.gguf_lora import KINDS, GgufBase, GgufError, gguf_base, save_gguf
from flower_strategy.device.base_model import adapted_shapes
from flower_strategy.testing.architectures import BY_KIND, write_checkpoint

RANK = 4


def adapter_for(folder: str, *, rank: int = RANK, scaling: float = 1.0) -> AdapterState:
    draw = np.random.default_rng(0)
    return AdapterState(
        {
            name: LoraFactors(
                b=draw.normal(size=(rows, rank)).astype(np.float32),
                a=draw.normal(size=(rank, columns)).astype(np.float32),
            )
            for name, (rows, columns) in adapted_shapes(folder).items()
        },
        scaling,
    )


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a file's header, without what describes the file, and its tensors."""
    reader = GGUFReader(path)
    header = {
        key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")
    }
    return header, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_layer_of_every_accepted_type_has_its_tensors(kind: str, tmp_path: Path) -> None:
    folder = write_checkpoint(kind, tmp_path / kind)
    adapter = adapter_for(folder)
    save_gguf(adapter, tmp_path / "a.gguf", base=gguf_base(folder), rank=RANK)
    header, tensors = read(tmp_path / "a.gguf")
    assert header == {
        "general.architecture": KINDS[kind].architecture,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(RANK),
    }
    assert len(tensors) == 2 * len(adapter.layers)
    ends = {name.rpartition(".")[2] for name in adapter.layers}
    assert ends == set(BY_KIND[kind].names.split())
    assert {values.dtype for values in tensors.values()} == {np.dtype(np.float16)}
    down = adapter.layers["model.layers.1.mlp.down_proj"]
    np.testing.assert_array_equal(tensors["blk.1.ffn_down.weight.lora_a"], down.a.astype("f2"))
    np.testing.assert_array_equal(tensors["blk.1.ffn_down.weight.lora_b"], down.b.astype("f2"))


def test_rows_of_q_and_k_follow_llama_cpps_rotary_layout(tiny_model: str, tmp_path: Path) -> None:
    adapter = adapter_for(tiny_model)
    save_gguf(adapter, tmp_path / "a.gguf", base=gguf_base(tiny_model), rank=RANK)
    _, tensors = read(tmp_path / "a.gguf")
    for ours, theirs, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)):
        b = adapter.layers[f"model.layers.0.self_attn.{ours}"].b.astype("f2")
        found = tensors[f"blk.0.{theirs}.weight.lora_b"]
        size = len(b) // heads
        for head in range(heads):
            for row in range(size // 2):
                for half in range(2):
                    np.testing.assert_array_equal(
                        found[head * size + 2 * row + half],
                        b[head * size + half * size // 2 + row],
                    )
    value = adapter.layers["model.layers.0.self_attn.v_proj"].b.astype("f2")
    np.testing.assert_array_equal(tensors["blk.0.attn_v.weight.lora_b"], value)


@pytest.mark.parametrize("scaling", [0.25, 3.0])
def test_the_scaling_is_in_the_factors_and_the_rank_in_alpha(
    scaling: float, tiny_model: str, tmp_path: Path
) -> None:
    adapter = adapter_for(tiny_model, rank=2, scaling=scaling)
    save_gguf(adapter, tmp_path / "a.gguf", base=gguf_base(tiny_model), rank=8)
    header, tensors = read(tmp_path / "a.gguf")
    a, b = (tensors[f"blk.0.attn_v.weight.lora_{end}"].astype("f4") for end in "ab")
    assert (a.shape[0], b.shape[1], header["adapter.lora.alpha"]) == (8, 8, 8.0)
    layer = adapter.layers["model.layers.0.self_attn.v_proj"]
    np.testing.assert_allclose(b @ a, scaling * layer.b @ layer.a, atol=0.01 * scaling)


def test_a_type_without_a_writer_is_named_with_those_that_have_one(tmp_path: Path) -> None:
    folder = write_checkpoint("gpt2", tmp_path / "gpt2")
    with pytest.raises(GgufError, match=r"models of type 'gpt2'; it does for .*llama.*qwen3\.$"):
        gguf_base(folder)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match=f"The configuration of {tmp_path} cannot be read: "):
        gguf_base(str(tmp_path))


def test_layers_without_a_tensor_and_numbers_without_a_half_are_named(tmp_path: Path) -> None:
    base = GgufBase(architecture="qwen2", layers=1, heads=None, tied=True)
    for name, size, message in (
        ("model.layers.0.self_attn.rotary", 1.0, "no tensor for the layer 'model.layers.0.self_a"),
        ("model.layers.1.self_attn.q_proj", 1.0, "no tensor for the layer 'model.layers.1.self_a"),
        ("lm_head", 1.0, "The layer 'lm_head' is the embedding, too"),
        ("model.layers.0.self_attn.q_proj", 7e4, "'model.layers.0.self_attn.q_proj' holds 70000"),
    ):
        factors = LoraFactors(b=np.full((4, 1), size, np.float32), a=np.ones((1, 4), np.float32))
        with pytest.raises(GgufError, match=message):
            save_gguf(AdapterState({name: factors}), tmp_path / "a.gguf", base=base, rank=1)
    assert not list(tmp_path.iterdir())
