from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from vllm_logits_processor.alignment.spelling import valid_and_rest
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary, TokenizerError
from vllm_logits_processor.conftest import TRAINED

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@SHARED
@given(data=st.binary(max_size=60))
def test_bytes_survive_encoding(vocabulary: ByteVocabulary, data: bytes) -> None:
    # SmolLM2 has no token for the bytes that UTF-8 never uses.
    spelled = bytes(byte for byte in data if vocabulary.encode(bytes([byte])))
    assert vocabulary.decode(vocabulary.encode(data)) == spelled
    assert vocabulary.decode(vocabulary.encode(spelled)) == spelled


@SHARED
@given(text=st.text(alphabet="the caé€你\n  <|>_im12", max_size=60))
def test_text_survives_encoding(vocabulary: ByteVocabulary, text: str) -> None:
    assert vocabulary.decode(vocabulary.encode(text.encode())) == text.encode()


def test_text_is_encoded_as_in_the_middle_of_a_text(vocabulary: ByteVocabulary) -> None:
    first = vocabulary.encode(b"the cat")[0]
    assert not (vocabulary.token_bytes[first] or b"").startswith(b" ")


def test_a_text_cannot_spell_a_special_token(vocabulary: ByteVocabulary) -> None:
    spelled = b"<|end|></s><|im_end|><eos><end_of_turn><|endoftext|><unk><s>"
    specials = {token for token, data in enumerate(vocabulary.token_bytes) if data is None}
    ids = vocabulary.encode(spelled)
    assert vocabulary.decode(ids) == spelled
    assert not specials & set(ids)


def test_end_tokens_add_nothing_to_the_text(vocabulary: ByteVocabulary) -> None:
    assert vocabulary.end_ids
    assert vocabulary.decode(sorted(vocabulary.end_ids)) == b""


def test_the_embedded_tokenizers_have_their_sizes(
    smollm2: ByteVocabulary, gemma: ByteVocabulary
) -> None:
    assert (len(smollm2), len(gemma)) == (49_152, 262_144)
    assert gemma.bos_ids == (2,)


@pytest.mark.parametrize("kind", TRAINED)
def test_fingerprints_depend_on_content_alone(kind: str) -> None:
    tokenizer = TRAINED[kind](400)

    def fingerprint(name: str, tokenizer: Tokenizer, end: int = 0) -> str:
        return ByteVocabulary.from_backend(
            tokenizer, name=name, end_ids=frozenset({end})
        ).fingerprint

    again = Tokenizer.from_str(tokenizer.to_str())
    assert fingerprint("a", tokenizer) == fingerprint("b", again)
    assert fingerprint("a", tokenizer) != fingerprint("a", tokenizer, end=1)
    again.add_tokens(["watchers watching"])
    assert fingerprint("a", tokenizer) != fingerprint("a", again)


def test_first_tokens_are_the_first_of_the_whole_encoding(vocabulary: ByteVocabulary) -> None:
    pieces = [b"watching", b" the", b"\n\n", b"\xe4\xbd", b"caf\xc3", b"\xe5"]
    assert vocabulary.first_tokens(pieces) == [vocabulary.encode(piece)[0] for piece in pieces]


def test_a_tokenizer_without_bytes_is_refused_by_name() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(TokenizerError, match=r"'bert'.*WordPiece.*does not spell bytes"):
        ByteVocabulary.from_backend(tokenizer, name="bert", end_ids=frozenset())


@given(data=st.binary(max_size=40))
def test_splitting_into_valid_and_rest_loses_nothing(data: bytes) -> None:
    joined = b"".join(text.encode() + rest for text, rest in valid_and_rest(data))
    assert joined == data
