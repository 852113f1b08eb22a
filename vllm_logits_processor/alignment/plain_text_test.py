"""Plain texts against the whole tokenizers."""

from __future__ import annotations

import json
from pydoc_data.topics import topics
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

from vllm_logits_processor.alignment import plain_text
from vllm_logits_processor.alignment.plain_text import PlainText
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.testing.tokenizers import byte_level_bpe, vocabulary_of

SHARED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300
)
#: What patterns treat in their own ways, and words.
PIECES = ["a", "The", " the", "'s", "'LL", "'", " ", "\n", "\r", "\t", "7", "x.y", "(", ")", "_"]
TEXTS = st.lists(st.sampled_from([*PIECES, "é", "\x0b", "<b>"]), max_size=12).map("".join)


def whole(encoder: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    encoding = encoder.encode(text, add_special_tokens=False)
    return encoding.ids, [word or 0 for word in encoding.word_ids]


def with_pattern(pattern: str) -> Tokenizer:
    """Return the tokenizer of a test with another pattern, as Llama's and Qwen's have one."""
    tokenizer = byte_level_bpe(420)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


@SHARED
@given(text=TEXTS)
def test_the_models_own_tokenizers_read_the_same(
    smollm2: ByteVocabulary, gemma: ByteVocabulary, text: str
) -> None:
    for vocabulary in (smollm2, gemma):
        found = vocabulary._plain.encode(text.encode())
        assert found in (None, whole(vocabulary.encoder, text))


@pytest.mark.parametrize("pattern", sorted(plain_text._KNOWN))
@SHARED
@given(text=TEXTS)
def test_known_patterns_split_the_same(pattern: str, text: str) -> None:
    vocabulary = vocabulary_of(with_pattern(pattern), "byte-level")
    found = PlainText(vocabulary.encoder, "byte-level").encode(text.encode())
    plain = not set(text) & set("é\x0b")
    assert found == (whole(vocabulary.encoder, text) if plain else None)


@pytest.mark.parametrize("pattern", sorted(plain_text._KNOWN))
@SHARED
@given(before=st.lists(st.sampled_from([*PIECES, *',!7-_"']), max_size=6).map("".join), data=TEXTS)
def test_what_is_split_off_has_its_own_tokens(pattern: str, before: str, data: str) -> None:
    vocabulary = vocabulary_of(with_pattern(pattern), "byte-level")
    plain, data = PlainText(vocabulary.encoder, "byte-level"), f" the{data}"
    if plain.splits_off(data.encode(), before=before.encode()):
        apart = [*whole(vocabulary.encoder, before)[0], *whole(vocabulary.encoder, data)[0]]
        assert whole(vocabulary.encoder, before + data)[0] == apart


def test_a_next_word_is_split_off_where_that_is_known(
    smollm2: ByteVocabulary, gemma: ByteVocabulary
) -> None:
    assert smollm2.splits_off(b" water", before=b" some")
    assert smollm2.splits_off(b" (", before=b" some") is False
    assert smollm2.splits_off(b"er", before=b" wat") is False
    assert smollm2.splits_off(b" water", before=b" some ") is False
    assert smollm2.splits_off(b" water", before=b"\n") is False
    # Its tokens may have spaces in them.
    assert gemma.splits_off(b" water", before=b" some") is False


def test_every_word_of_a_long_text(smollm2: ByteVocabulary, gemma: ByteVocabulary) -> None:
    text = "\n".join(topics[name] for name in ("strings", "operator-summary", "with"))
    for vocabulary in (smollm2, gemma):
        read = 0
        for begin in range(0, len(text), 40):
            piece = text[begin : begin + 40]
            for part in (piece, *(" " + word for word in piece.split())):
                found = vocabulary._plain.encode(part.encode())
                assert found in (None, whole(vocabulary.encoder, part))
                read += found is not None
        assert read > 500


def test_what_is_not_known_is_left_to_the_tokenizer() -> None:
    for pattern in (r"\p{L}+|.", r"the|\p{L}+|\s+"):
        encoder = vocabulary_of(with_pattern(pattern), "byte-level").encoder
        assert PlainText(encoder, "byte-level").encode(b"the cat") is None
    words = vocabulary_of(byte_level_bpe(420), "byte-level").encoder
    assert PlainText(words, "byte-level").encode(b"the cat") == whole(words, "the cat")
    assert PlainText(words, "byte-level").encode(b"the cat " * 50) is None
    words.model = models.BPE(**_parts(words), dropout=0.5)
    assert PlainText(words, "byte-level").encode(b"the cat") is None


def test_an_added_token_is_found_in_a_plain_text() -> None:
    tokenizer = byte_level_bpe(420)
    tokenizer.add_tokens([AddedToken("<b>", special=False)])
    vocabulary = vocabulary_of(tokenizer, "byte-level")
    assert PlainText(vocabulary.encoder, "byte-level").encode(b"the <b> cat") is None
    assert vocabulary.decode(vocabulary.encode(b"the <b> cat")) == b"the <b> cat"


def _parts(encoder: Tokenizer) -> dict[str, Any]:
    model = json.loads(encoder.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}
