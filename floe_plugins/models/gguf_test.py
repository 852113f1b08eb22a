"""Checks the exported checkpoints: weights and tokenizers equal the original models'."""

import bisect
import inspect
import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from floe_plugins.models import resolve
from floe_plugins.models.embedded import MODELS, _part
from floe_plugins.models.gguf import _reader

SMOLLM2 = "embedded:smollm2-135m-instruct"
GEMMA = "embedded:gemma-3-270m"

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "x  1 23\n\n  y\t3.14159,  2024-01-31",
    "naïve café, 你好, 🙂 and \x00",
    "<b>bold</b>\r\n\r\n  'quoted'",
    inspect.getsource(bisect),
]


@cache
def tokenizer(name: str) -> Any:
    return AutoTokenizer.from_pretrained(resolve(name))


@cache
def model(name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(resolve(name), dtype=torch.float32)


def continuation(name: str, text: str, tokens: int) -> str:
    encoded = tokenizer(name)(text, return_tensors="pt")
    generated = model(name).generate(**encoded, max_new_tokens=tokens, do_sample=False)
    return str(
        tokenizer(name).decode(generated[0, encoded.input_ids.shape[1] :], skip_special_tokens=True)
    )


def nats_per_token(name: str, text: str) -> float:
    ids = tokenizer(name)(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return float(model(name)(ids, labels=ids).loss)


@pytest.mark.parametrize(("name", "tokens"), [(SMOLLM2, 49_152), (GEMMA, 262_144)])
def test_the_whole_vocabulary_is_there(name: str, tokens: int) -> None:
    assert len(tokenizer(name)) == tokens
    assert model(name).get_input_embeddings().weight.shape[0] == tokens
    assert model(name).config.vocab_size == tokens


@pytest.mark.parametrize("name", [SMOLLM2, GEMMA])
@pytest.mark.parametrize("text", TEXTS)
def test_texts_come_back_from_their_tokens(name: str, text: str) -> None:
    ids = tokenizer(name)(text).input_ids
    assert tokenizer(name).decode(ids, skip_special_tokens=True) == text


# Bytes used by UTF-8 for which SmolLM2's vocabulary has no token.
WITHOUT_TOKEN = frozenset(b"\x04\x06\x13\x14\x16\x1d\xf1\xf2")


@settings(deadline=None)
@given(st.text().filter(lambda text: WITHOUT_TOKEN.isdisjoint(text.encode())))
def test_any_text_comes_back_from_smollm2s_tokens(text: str) -> None:
    ids = tokenizer(SMOLLM2)(text).input_ids
    assert tokenizer(SMOLLM2).decode(ids) == text


@settings(deadline=None)
@given(st.text().filter(lambda text: "\u2581" not in text))
def test_any_text_comes_back_from_gemmas_tokens(text: str) -> None:
    # U+2581 is how sentencepiece writes a space, so it is the one character that gets lost.
    ids = tokenizer(GEMMA)(text).input_ids
    assert tokenizer(GEMMA).decode(ids[1:]) == text


def test_special_tokens_are_those_of_the_models() -> None:
    smollm2, gemma = tokenizer(SMOLLM2), tokenizer(GEMMA)
    assert smollm2.convert_ids_to_tokens([0, 1, 2]) == [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
    ]
    assert (smollm2.bos_token_id, smollm2.eos_token_id, smollm2.pad_token_id) == (1, 2, 0)
    assert (gemma.pad_token_id, gemma.eos_token_id, gemma.bos_token_id) == (0, 1, 2)
    assert gemma.unk_token_id == 3
    for name, eos in ((SMOLLM2, 2), (GEMMA, 1)):
        assert model(name).generation_config.eos_token_id == eos
    assert smollm2("<|im_start|>user").input_ids[0] == 1


def test_gemma_begins_with_bos_and_smollm2_does_not() -> None:
    assert tokenizer(GEMMA)("Hello").input_ids == [2, 9259]
    assert tokenizer(SMOLLM2)("Hello").input_ids == [19556]


def test_smollm2_cuts_digits_off_one_by_one() -> None:
    tokens = tokenizer(SMOLLM2).tokenize("x  123")
    assert tokens == ["x", "ĠĠ", "1", "2", "3"]


def test_smollm2_has_its_chat_template() -> None:
    text = tokenizer(SMOLLM2).apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer(GEMMA).chat_template is None


def test_smollm2_answers_a_question() -> None:
    prompt = tokenizer(SMOLLM2).apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert "Paris" in continuation(SMOLLM2, prompt, 20)


def test_gemma_completes_a_text() -> None:
    assert continuation(GEMMA, "1, 2, 3, 4, 5, 6,", 6).startswith(" 7, 8")


@pytest.mark.parametrize("name", [SMOLLM2, GEMMA])
def test_the_models_know_english(name: str) -> None:
    text = (
        "The Titanic was a British passenger ship that sank in the North Atlantic Ocean in April "
        "1912 after striking an iceberg during her first voyage from Southampton to New York City."
    )
    assert nats_per_token(name, text) < 2.5


def test_weights_equal_what_transformers_reads_from_the_gguf() -> None:
    """One tensor of each kind: transformers' own loader takes half a minute for all."""
    from gguf import GGUFReader, dequantize

    embedded = MODELS["smollm2-135m-instruct"]
    path = _part(embedded, *embedded.parts[0])
    tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    state = model(SMOLLM2).state_dict()

    def original(name: str) -> torch.Tensor:
        tensor = tensors[name]
        return torch.tensor(dequantize(tensor.data, tensor.tensor_type)).bfloat16().float()

    for ours, theirs in {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "model.layers.7.mlp.down_proj.weight": "blk.7.ffn_down.weight",
        "model.layers.29.self_attn.o_proj.weight": "blk.29.attn_output.weight",
    }.items():
        assert torch.equal(state[ours], original(theirs))
    # llama.cpp interleaves the halves of each head, of 64 rows here: row 1 is row 32 of the model.
    query = state["model.layers.3.self_attn.q_proj.weight"]
    assert torch.equal(query[32], original("blk.3.attn_q.weight")[1])
    assert torch.equal(query[1], original("blk.3.attn_q.weight")[2])


def _field(number: int, value: int | bytes | float) -> bytes:
    """Encode one protobuf field: sentencepiece's own module needs a newer protobuf than vLLM."""

    def varint(value: int) -> bytes:
        out = b""
        while value > 127:
            out += bytes([value & 127 | 128])
            value >>= 7
        return out + bytes([value])

    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


@cache
def sentencepiece(folder: Path) -> Any:
    """Build sentencepiece's tokenizer out of the pieces, scores and types in the GGUF file."""
    from sentencepiece import SentencePieceProcessor

    path = folder / "gemma.gguf"
    embedded = MODELS["gemma-3-270m"]
    with path.open("wb") as file:
        for part in embedded.parts:
            file.write(_part(embedded, *part).read_bytes())
    reader = _reader(path)
    path.unlink()
    tokens, scores, types = (
        reader.fields[f"tokenizer.ggml.{key}"].contents()
        for key in ("tokens", "scores", "token_type")
    )
    unknown = tokens.index("<unk>")
    pieces = []
    for number, (token, score, kind) in enumerate(zip(tokens, scores, types, strict=True)):
        piece = "\u2581" * len(token) if token and not token.strip(" ") else token
        body = _field(1, piece.encode()) + _field(2, score)
        pieces.append(_field(1, body + _field(3, 2 if number == unknown else kind)))
    # TrainerSpec: BPE with byte fallback, and the ids of unk, bos, eos and pad.
    numbers = {3: 2, 4: len(tokens), 35: 1, 40: unknown, 41: 2, 42: 1, 43: 0}
    trainer = b"".join(_field(number, value) for number, value in numbers.items())
    # NormalizerSpec: nothing but spaces as U+2581.
    normalizer = _field(1, b"identity") + _field(3, 0) + _field(4, 0) + _field(5, 1)
    proto = b"".join(pieces) + _field(2, trainer) + _field(3, normalizer)
    return SentencePieceProcessor(model_proto=proto)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return sentencepiece(tmp_path_factory.mktemp("gemma"))


@pytest.mark.parametrize("text", TEXTS)
def test_gemma_tokenizes_as_sentencepiece_does(oracle: Any, text: str) -> None:
    assert tokenizer(GEMMA)(text).input_ids[1:] == oracle.encode(text)


def test_gemma_tokenizes_any_text_as_sentencepiece_does(oracle: Any) -> None:
    @settings(deadline=None, max_examples=300)
    # Spelled-out control tokens are split by sentencepiece and kept whole by transformers.
    @given(st.text().filter(lambda text: "<" not in text))
    def same(text: str) -> None:
        assert tokenizer(GEMMA)(text).input_ids[1:] == oracle.encode(text)

    same()


def test_the_checkpoint_is_plain_huggingface() -> None:
    for name, architecture in ((SMOLLM2, "LlamaForCausalLM"), (GEMMA, "Gemma3ForCausalLM")):
        config = json.loads((Path(resolve(name)) / "config.json").read_text())
        assert config["architectures"] == [architecture]
        assert config["dtype"] == "bfloat16"
        assert "quantization_config" not in config
