"""A pair of small models of two families, reduced to what the commands read: their tokenizers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from floe_plugins.system import CACHE_VARIABLE
from vllm_logits_processor.testing.served_expert import Served, serving
from vllm_logits_processor.testing.tokenizers import TRAINED


def checkpoint(folder: Path, tokenizer: Tokenizer, end: str) -> str:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(folder)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Folders of host and expert; their maps go to a cache folder of the test's own."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return (
        checkpoint(tmp_path / "host", TRAINED["byte-level"](420), "<|end|>"),
        checkpoint(tmp_path / "expert", TRAINED["sentencepiece"](420), "</s>"),
    )


@pytest.fixture
def served(pair: tuple[str, str]) -> Iterator[Served]:
    """A server of the pair's expert that answers well, until a test changes it."""
    with serving(Served(tokenizer=pair[1])) as state:
        yield state
