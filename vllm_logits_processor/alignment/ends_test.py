"""Ends of turn, for templates of five families and helpful, missing or misleading files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from vllm_logits_processor.alignment.maps import build_maps
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary, TokenizerError
from vllm_logits_processor.testing.tokenizers import byte_level_bpe


@dataclass(frozen=True)
class Family:
    """The format of conversations of a model family.

    Attributes
    ----------
    end : str
        The text that the template puts after an answer.
    eos : str
        The ``eos_token`` of tokenizer_config.json.
    tokens : tuple of str
        Its special tokens.
    """

    template: str
    end: str
    eos: str
    tokens: tuple[str, ...]


FAMILIES = {
    "chatml": Family(
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "<|im_end|>",
        "<|endoftext|>",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    ),
    "llama-3": Family(
        "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}"
        "<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
        "{% endif %}",
        "<|eot_id|>",
        "<|end_of_text|>",
        (
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ),
    ),
    "gemma": Family(
        "{{ bos_token }}{% for message in messages %}<start_of_turn>"
        "{{ 'model' if message.role == 'assistant' else message.role }}\n{{ message.content }}"
        "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n"
        "{% endif %}",
        "<end_of_turn>",
        "<eos>",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    ),
    "phi-3": Family(
        "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}"
        "{% endif %}",
        "<|end|>",
        "<|endoftext|>",
        ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    ),
    "mistral": Family(
        "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] "
        "{{ message.content }}[/INST]{% else %} {{ message.content }}{{ eos_token }}{% endif %}"
        "{% endfor %}",
        "</s>",
        "</s>",
        ("<s>", "</s>", "[INST]", "[/INST]"),
    ),
    # The last answer of a conversation ends as the model ends it, earlier ones do not.
    "harmony": Family(
        "{% for message in messages %}<|start|>{{ message.role }}<|message|>{{ message.content }}"
        "{% if loop.last %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}",
        "<|return|>",
        "<|endoftext|>",
        ("<|endoftext|>", "<|start|>", "<|message|>", "<|end|>", "<|return|>"),
    ),
    # Only the next turn ends an answer.
    "glm": Family(
        "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        "<|user|>",
        "<|endoftext|>",
        ("<|endoftext|>", "<|user|>", "<|assistant|>"),
    ),
}


def trained(tokens: tuple[str, ...]) -> Tokenizer:
    tokenizer = byte_level_bpe(300)
    tokenizer.add_special_tokens(list(tokens))
    return tokenizer


def write(
    folder: Path,
    family: Family,
    *,
    template: bool = True,
    generation: Any = None,
    config: Any = None,
) -> str:
    """Write a tokenizer's folder; `generation` and `config` are the ends that these files name."""
    trained(family.tokens).save(str(folder / "tokenizer.json"))
    settings = {"eos_token": family.eos, "tokenizer_class": "PreTrainedTokenizerFast"}
    starts = [token for token in family.tokens if token in ("<s>", "<bos>", "<|begin_of_text|>")]
    if starts:
        settings["bos_token"] = starts[0]
    if template:
        settings["chat_template"] = family.template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, value in (("generation_config.json", generation), ("config.json", config)):
        if value is not None:
            (folder / name).write_text(json.dumps({"model_type": "llama", "eos_token_id": value}))
    return str(folder)


def ids(family: Family, *tokens: str) -> frozenset[int]:
    found = [trained(family.tokens).token_to_id(token) for token in tokens]
    return frozenset(token for token in found if token is not None)


def read(folder: str) -> tuple[frozenset[int], str | None]:
    vocabulary = ByteVocabulary.from_pretrained(folder, name="m")
    assert vocabulary.ends is not None
    assert vocabulary.end_ids == vocabulary.ends.ids
    return vocabulary.end_ids, vocabulary.ends.doubt


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.mark.parametrize("where", ["generation", "config"])
def test_files_that_name_all_ends_raise_no_doubt(
    tmp_path: Path, family: Family, where: str
) -> None:
    ends = ids(family, family.end, family.eos)
    named: dict[str, Any] = {where: sorted(ends)}
    assert read(write(tmp_path, family, **named)) == (ends, None)


def test_without_a_generation_config_the_template_tells_the_end(
    tmp_path: Path, family: Family
) -> None:
    found, doubt = read(write(tmp_path, family))
    assert found == ids(family, family.end, family.eos)
    assert (doubt is None) == (family.end == family.eos)
    if doubt is not None:
        assert f"the chat template names {family.end} (" in doubt
        assert f"eos_token names {family.eos} (" in doubt


def test_a_generation_config_of_the_base_model_does_not_hide_the_end_of_turn(
    tmp_path: Path, family: Family
) -> None:
    (base,) = ids(family, family.eos)
    found, doubt = read(write(tmp_path, family, generation=base))
    assert found == ids(family, family.end, family.eos)
    assert (doubt is None) == (family.end == family.eos)
    assert doubt is None or f"generation_config.json names {family.eos} ({base})" in doubt


def test_an_end_that_is_ordinary_text_or_no_token_at_all_does_not_count(
    tmp_path: Path, family: Family
) -> None:
    letter = trained(family.tokens).token_to_id("a")
    found, doubt = read(write(tmp_path, family, generation=[letter, 99_999]))
    assert found == ids(family, family.end, family.eos)
    assert doubt is not None
    assert f"no special token ({letter}), no special token (99999)" in doubt
    assert doubt.endswith(f"All count, save {letter}, 99999.")
    assert "\n" not in doubt


def test_a_base_model_ends_with_its_eos(tmp_path: Path, family: Family) -> None:
    eos = ids(family, family.eos)
    assert read(write(tmp_path, family, template=False)) == (eos, None)


def test_a_base_model_whose_files_name_different_ends_is_doubted(tmp_path: Path) -> None:
    family = FAMILIES["chatml"]
    (other,) = ids(family, "<|im_end|>")
    found, doubt = read(write(tmp_path, family, template=False, generation=other))
    assert found == ids(family, "<|im_end|>", "<|endoftext|>")
    assert doubt is not None
    assert f"generation_config.json names <|im_end|> ({other})" in doubt


@pytest.mark.parametrize("spelled", ["<|im_end|>", {"content": "<|im_end|>", "lstrip": False}])
def test_special_tokens_map_counts(tmp_path: Path, spelled: object) -> None:
    family = FAMILIES["chatml"]
    folder = write(tmp_path, family, template=False)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": spelled}))
    assert read(folder) == (ids(family, "<|im_end|>"), None)


def test_the_configuration_of_a_language_model_inside_another_counts(tmp_path: Path) -> None:
    family = FAMILIES["gemma"]
    folder = write(tmp_path, family, template=False)
    (end,) = ids(family, "<end_of_turn>")
    values = {"model_type": "gemma3", "text_config": {"eos_token_id": [end]}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read(folder)[0] == ids(family, "<end_of_turn>", "<eos>")


def test_a_damaged_generation_config_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, FAMILIES["chatml"])
    for damaged in ("{", "[1]"):
        (tmp_path / "generation_config.json").write_text(damaged)
        with pytest.raises(TokenizerError, match=r"generation_config\.json of "):
            read(folder)


def test_an_end_that_only_the_template_knows_is_joined_with_the_hosts(tmp_path: Path) -> None:
    """Without it, the expert's end of turn would be a token without a meaning for the host."""
    host, expert = FAMILIES["llama-3"], FAMILIES["chatml"]
    folders = [tmp_path / "host", tmp_path / "expert"]
    for folder in folders:
        folder.mkdir()
    ours = ByteVocabulary.from_pretrained(write(folders[0], host))
    theirs = ByteVocabulary.from_pretrained(write(folders[1], expert))
    maps = build_maps(ours, theirs)
    assert frozenset(maps.end_ids.tolist()) == ids(expert, "<|im_end|>", "<|endoftext|>")
    (eot,) = ids(host, "<|eot_id|>")
    assert maps.first_expert[eot] == maps.end_ids[0]


def test_a_folder_without_a_tokenizer_is_named_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(TokenizerError, match="has no tokenizer in it") as caught:
        ByteVocabulary.from_pretrained(str(tmp_path), name="slm")
    assert str(tmp_path) in str(caught.value)


def test_a_missing_folder_is_not_reported_as_a_hub_that_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TokenizerError) as caught:
        ByteVocabulary.from_pretrained("models/slm")
    assert f"there is no folder {tmp_path}/models/slm, and the hub's cache" in str(caught.value)
    assert "HF_HUB_OFFLINE" in str(caught.value)
