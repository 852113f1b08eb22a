from __future__ import annotations

import pytest

from floe_plugins.models import resolve
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.testing.engines import Scripted
from vllm_logits_processor.testing.tokenizers import TRAINED, TRAINED_WORDS, trained_vocabulary


@pytest.fixture
def expert() -> Scripted:
    return Scripted()


@pytest.fixture(scope="session")
def smollm2() -> ByteVocabulary:
    return ByteVocabulary.from_pretrained(resolve("embedded:smollm2-135m-instruct"))


@pytest.fixture(scope="session")
def gemma() -> ByteVocabulary:
    return ByteVocabulary.from_pretrained(resolve("embedded:gemma-3-270m"))


@pytest.fixture(scope="session", params=[*TRAINED, "smollm2", "gemma"])
def vocabulary(request: pytest.FixtureRequest) -> ByteVocabulary:
    """Each tokenizer family that can spell every text, in turn."""
    if request.param in TRAINED:
        return trained_vocabulary(request.param)
    found: ByteVocabulary = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session", params=TRAINED_WORDS)
def words(request: pytest.FixtureRequest) -> ByteVocabulary:
    """Each tokenizer family that knows only words, in turn."""
    return trained_vocabulary(request.param)
