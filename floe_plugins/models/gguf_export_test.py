"""Exports GGUF files of one's own: what is written equals what was in them, or is refused."""

import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from floe_plugins.cli import main
from floe_plugins.errors import ModelError
from floe_plugins.models import export, resolve
from floe_plugins.models.gguf_file import resolve_gguf

#: Bytes of the texts below, marks of turns, and a filler as llama.cpp's converter names it.
TOKENS = [*"abcdefgh", "Ġ", "ab", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "[PAD13]"]
END, TEXT_END = TOKENS.index("<|im_end|>"), TOKENS.index("<|endoftext|>")
HEADS, KEY_HEADS, LAYERS = 4, 2, 2


def tiny_llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(TOKENS),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
    }
    return LlamaForCausalLM(LlamaConfig(**(sizes | changes))).eval()


def write(
    path: Path,
    model: LlamaForCausalLM,
    *,
    architecture: str = "llama",
    header: Mapping[str, Any] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
    without: str = "",
    tokenizer: str = "gpt2",
) -> Path:
    """Write a model as llama.cpp's converter does; `header` sets further fields."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model(tokenizer)
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(TOKENS)
    kinds = [gguf.TokenType.NORMAL] * 10 + [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.UNUSED]
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(END)
    for key, value in (header or {}).items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        (writer.add_uint32 if isinstance(value, int) else add)(key, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, tensor in model.state_dict().items():
        found = names.get_name(name, try_suffixes=(".weight",))
        assert found is not None, name
        values = tensor.numpy()
        for part, heads in (("attn_q.", HEADS), ("attn_k.", KEY_HEADS)):
            if part in found:
                # Row i of a head's first half and row i of its second follow each other.
                halves = values.reshape(heads, 2, -1, values.shape[1])
                values = halves.swapaxes(1, 2).reshape(values.shape)
        if found != without:
            writer.add_tensor(found, np.ascontiguousarray(values))
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([ids])).logits
    return found


def test_a_command_makes_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "model.gguf", tiny_llama())
    assert main(["model", "export", "model.gguf", "models/llm"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'models' / 'llm'}\n"
    assert resolve("models/llm") == str(tmp_path / "models" / "llm")


@pytest.mark.parametrize("tied", [False, True])
def test_a_file_becomes_the_model_that_it_was_made_of(tmp_path: Path, tied: bool) -> None:
    original = tiny_llama(tie_word_embeddings=tied)
    without = "output.weight" if tied else ""
    path = write(tmp_path / "tiny.gguf", original, without=without)
    folder = export(str(path), tmp_path / "tiny", progress=False)
    found = AutoModelForCausalLM.from_pretrained(folder)
    assert found.dtype == torch.float32
    assert found.config.tie_word_embeddings == tied
    state = found.state_dict()
    for name, tensor in original.state_dict().items():
        assert torch.equal(state[name], tensor), name
    ids = list(range(10))
    assert torch.equal(logits(found, ids), logits(original, ids))


def test_ends_and_padding_are_told_apart(tmp_path: Path) -> None:
    for name, header in (("none", {}), ("end", {"tokenizer.ggml.padding_token_id": END})):
        path = write(tmp_path / f"{name}.gguf", tiny_llama(), header=header)
        folder = export(str(path), tmp_path / name, progress=False)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (END, TEXT_END)
        generation = json.loads((folder / "generation_config.json").read_text())
        assert generation["eos_token_id"] == [END, TEXT_END]
        assert generation["pad_token_id"] == TEXT_END
        config = json.loads((folder / "config.json").read_text())
        assert (config["eos_token_id"], config["pad_token_id"]) == (END, TEXT_END)


def test_ids_without_a_token_are_rows_of_the_embedding_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.gguf", tiny_llama())
    folder = export(str(path), tmp_path / "tiny", progress=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == len(TOKENS) - 1
    ids = tokenizer("abc h<|im_end|>").input_ids
    assert [TOKENS[each] for each in ids] == ["ab", "c", "Ġ", "h", "<|im_end|>"]
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == len(TOKENS)


def test_llama_3s_frequencies_are_found_from_their_factors(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    original = tiny_llama(rope_parameters=rope, head_dim=8)
    plain = tiny_llama(rope_parameters={"rope_type": "default", "rope_theta": 500_000.0})
    rotary, base = (each.model.rotary_emb.inv_freq for each in (original, plain))
    factors = (base / rotary).numpy().astype(np.float32)
    assert factors.max() == pytest.approx(8)
    path = write(tmp_path / "a.gguf", original, extra={"rope_freqs.weight": factors})
    folder = export(str(path), tmp_path / "a", progress=False)
    found = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(found.model.rotary_emb.inv_freq, rotary)
    odd = write(tmp_path / "b.gguf", original, extra={"rope_freqs.weight": factors[::-1].copy()})
    with pytest.raises(ModelError, match=r"another way than Llama 3\.1"):
        export(str(odd), tmp_path / "b", progress=False)


def test_scaled_positions_are_kept(tmp_path: Path) -> None:
    header = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    path = write(tmp_path / "a.gguf", tiny_llama(), header=header)
    folder = export(str(path), tmp_path / "a", progress=False)
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    assert (rope["rope_type"], rope["factor"]) == ("linear", 4.0)


def test_the_embedded_model_is_the_same_from_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "embedded:smollm2-135m-instruct"
    target = tmp_path / "slm"
    assert main(["model", "export", str(resolve_gguf(name)), str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(target)
    embedded, own = (
        AutoModelForCausalLM.from_pretrained(each, dtype=torch.bfloat16)
        for each in (resolve(name), target)
    )
    ids = AutoTokenizer.from_pretrained(target)("The capital of France is").input_ids
    assert torch.equal(logits(own, ids), logits(embedded, ids))
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (target / file).read_bytes() == (Path(resolve(name)) / file).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "rwkv6"}, "of architecture 'rwkv6'; accepted are gemma3, llama, qwen2"),
        ({"without": "blk.1.attn_q.weight"}, "1 are missing, unknown or of another shape"),
        ({"extra": {"odd.weight": np.zeros(3, np.float32)}}, "holds the tensor 'odd.weight'"),
        ({"tokenizer": "rwkv"}, "cannot convert the tokenizer .* of the kind 'rwkv'"),
        ({"header": {"split.count": 3}}, "one of 3 parts .*llama-gguf-split --merge"),
        ({"header": {"llama.rope.scaling.type": "longrope"}}, "'longrope'; accepted are none"),
    ],
)
def test_what_cannot_be_converted_is_said_in_a_sentence(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "model.gguf", tiny_llama(), **options)
    with pytest.raises(ModelError, match=message) as caught:
        export(str(path), tmp_path / "target", progress=False)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["model.gguf"]


@pytest.mark.parametrize("share", [0.02, 0.2, 0.9])
def test_a_file_that_is_cut_is_said_in_a_sentence(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "model.gguf", tiny_llama())
    os.truncate(path, math.floor(path.stat().st_size * share))
    with pytest.raises(ModelError, match=r"model\.gguf is no whole GGUF file") as caught:
        export(str(path), tmp_path / "target", progress=False)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["model.gguf"]


def test_wrong_arguments_are_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "model.gguf", tiny_llama())
    (tmp_path / "other.txt").write_text("no model")
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("")
    for source, target, message in (
        (path, full, "has content; name an empty or a new one."),
        (path, path, "is a file; name an empty or a new folder."),
        (tmp_path / "absent.gguf", tmp_path / "new", "There is no file"),
        (tmp_path / "other.txt", tmp_path / "new", "is no GGUF file: it begins with b'no m'."),
    ):
        assert main(["model", "export", str(source), str(target)]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
    with pytest.raises(ModelError, match=r"`floe-llm model export FILE\.gguf DIR` makes one"):
        resolve(str(path))


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", tiny_llama(intermediate_size=20_000))
    code = "import sys; from floe_plugins.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "model", "export", str(path), str(tmp_path / "target")],
        capture_output=True,
        text=True,
        # The kernel refuses to let a file grow beyond it, as on a disk with a quota.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("floe-llm: Writing to")
    assert "File too large" in last
    assert os.listdir(tmp_path) == ["model.gguf"]
