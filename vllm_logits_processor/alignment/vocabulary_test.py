from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, processors

from vllm_logits_processor.alignment.spelling import valid_and_rest
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary, TokenizerError
from vllm_logits_processor.testing.tokenizers import TRAINED, TRAINED_WORDS, trained_vocabulary

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
    # As loaded from a file: a freshly trained one may have more digits than JSON keeps.
    tokenizer = Tokenizer.from_str(TRAINED[kind](400).to_str())

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
    whole = [vocabulary.encode_words(piece, word_follows=True)[0] for piece in pieces]
    assert vocabulary.first_tokens(pieces) == [ids[0] for ids in whole]


def test_the_last_of_several_line_feeds_is_split_off_before_a_word(
    smollm2: ByteVocabulary, gemma: ByteVocabulary
) -> None:
    def paragraph(vocabulary: ByteVocabulary) -> list[bytes | None]:
        ids, words = vocabulary.encode_words(b"x.\n\n", word_follows=True)
        assert len(words) == len(ids)
        assert vocabulary.encode(b"x.\n\nThe")[: len(ids)] == ids
        return [vocabulary.token_bytes[token] for token in ids]

    assert paragraph(smollm2) == [b"x", b".", b"\n", b"\n"]
    assert paragraph(gemma) == [b"x", b".", b"\n\n"]
    assert spelled(smollm2, smollm2.encode(b"x.\n\n")) == [b"x", b".", b"\n\n"]


def test_the_last_of_several_spaces_goes_to_the_word(
    smollm2: ByteVocabulary, gemma: ByteVocabulary
) -> None:
    assert spelled(smollm2, smollm2.encode(b"x\n    y")) == [b"x", b"\n   ", b" y"]
    (eight,) = gemma.encode(b"        ")
    assert gemma.token_bytes[eight] == b"        "
    assert spelled(smollm2, [first for first in smollm2.first_tokens([b"        "]) if first]) == [
        b"       "
    ]


@pytest.mark.parametrize(
    "tokenizer",
    [
        Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]")),
        Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])),
        Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0)),
    ],
    ids=["WordLevel", "BPE", "Unigram"],
)
def test_a_tokenizer_without_bytes_is_refused_by_name(tokenizer: Tokenizer) -> None:
    tokenizer.decoder = decoders.Metaspace()
    kind = type(tokenizer.model).__name__
    accepted = "byte-level BPE, sentencepiece with byte fallback, and WordPiece"
    with pytest.raises(TokenizerError, match=rf"'mine' \({kind}.*spell bytes.*takes {accepted}"):
        ByteVocabulary.from_backend(tokenizer, name="mine", end_ids=frozenset())


def test_a_tokenizer_without_fast_form_is_refused_by_name(tmp_path: Path) -> None:
    config = {"tokenizer_class": "CanineTokenizer", "model_max_length": 64}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match="'canine' has no fast"):
        ByteVocabulary.from_pretrained(str(tmp_path), name="canine")


def spelled(vocabulary: ByteVocabulary, ids: list[int]) -> list[bytes | None]:
    return [vocabulary.token_bytes[token] for token in ids]


def test_words_begin_with_a_space_and_go_on_without(words: ByteVocabulary) -> None:
    assert spelled(words, words.encode(b" the cat")) == [b" the", b" cat"]
    at, the = words.encode(b"at the")
    assert words.encoder.id_to_token(at) == "##at"
    assert words.encoder.id_to_token(the) == "the"
    # At the beginning of a text, no word is continued.
    assert spelled(words, words.encode_words(b"the cat", begins_text=True)[0]) == [b" the", b" cat"]
    assert words.first_tokens([b"at", b" cat", b", the"]) == [
        at,
        words.encode(b" cat")[0],
        words.encode(b",")[0],
    ]


def test_punctuation_and_chinese_are_words_without_a_space(words: ByteVocabulary) -> None:
    pieces = spelled(words, words.encode(" the cat, the mat; 你好".encode()))
    expected = [b" the", b" cat", b",", b" the", b" mat", b";", "你".encode(), "好".encode()]
    assert pieces == expected


def test_unknown_words_mean_nothing(words: ByteVocabulary) -> None:
    ids = words.encode(" the ☃ cat".encode())
    assert spelled(words, ids) == [b" the", None, b" cat"]
    assert words.decode(ids) == b" the cat"
    assert words.encode("☃".encode()) == []
    assert words.first_tokens([b"\n", "☃".encode()]) == [None, None]
    specials = {token for token, data in enumerate(words.token_bytes) if data is None}
    assert len(specials) == 4


@SHARED
@given(text=st.text(alphabet="the cat,;.é你 \n[]", max_size=40))
def test_words_are_tokenized_as_the_tokenizer_does(words: ByteVocabulary, text: str) -> None:
    ids, numbers = words.encode_words(text.encode(), begins_text=True)
    assert ids == words.encoder.encode(text, add_special_tokens=False).ids
    starts = words.token_starts(text.encode(), ids)
    assert len(starts) == len(ids) == len(numbers)
    assert starts == sorted(starts)
    assert all(0 <= start <= len(text.encode()) for start in starts)


def test_what_bert_puts_around_a_text_is_its_bos_and_end(tmp_path: Path) -> None:
    tokenizer = TRAINED_WORDS["wordpiece"](300)
    cls, sep = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    assert cls is not None
    assert sep is not None
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    vocabulary = ByteVocabulary.from_pretrained(str(tmp_path))
    assert (vocabulary.bos_ids, vocabulary.end_ids) == ((cls,), frozenset({sep}))
    assert vocabulary.template is None


@pytest.mark.parametrize("kind", [*TRAINED, *TRAINED_WORDS])
def test_added_tokens_that_are_not_special_are_text(kind: str) -> None:
    tokenizer = (TRAINED | TRAINED_WORDS)[kind](400)
    tokenizer.add_tokens(["<think>"])
    tokenizer.add_special_tokens(["<|tool|>"])
    vocabulary = ByteVocabulary.from_backend(tokenizer, name=kind, end_ids=frozenset())
    think, tool = (tokenizer.token_to_id(token) for token in ("<think>", "<|tool|>"))
    assert think is not None
    assert tool is not None
    assert vocabulary.token_bytes[think] == b"<think>"
    assert vocabulary.token_bytes[tool] is None
    assert think in vocabulary.encode(b" the <think> cat")
    assert tool not in vocabulary.encode(b" the <|tool|> cat")
    assert len(vocabulary) == 1 + max(think, tool)


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "wordpiece"])
def test_holes_in_the_vocabulary_add_nothing(kind: str) -> None:
    spec = json.loads((TRAINED | TRAINED_WORDS)[kind](400).to_str())
    # Padded: the highest id is far above the others.
    spec["model"]["vocab"]["padding"] = 1000
    padded = Tokenizer.from_str(json.dumps(spec))
    vocabulary = ByteVocabulary.from_backend(padded, name=kind, end_ids=frozenset())
    assert len(vocabulary) == 1001
    assert set(vocabulary.token_bytes[600:1000]) == {None}
    assert vocabulary.decode([700, 5000, -1]) == b""


def test_of_several_spellings_the_tokenizer_s_own_is_meant() -> None:
    # A line feed as a byte token and as an ordinary one, as Gemma has.
    vocabulary = trained_vocabulary("sentencepiece")
    byte, ordinary = (vocabulary.encoder.token_to_id(token) for token in ("<0x0A>", "\n"))
    assert byte is not None
    assert ordinary is not None
    assert vocabulary.token_bytes[byte] == vocabulary.token_bytes[ordinary] == b"\n"
    assert vocabulary.encode(b"\n") == vocabulary.first_tokens([b"\n"]) == [ordinary]


@pytest.mark.parametrize("text", ["café", " 你", "it’s", "x😀", "½"])
def test_an_unfinished_character_is_tokenized_as_its_beginning(text: str) -> None:
    # Byte-level BPE's tokens of the whole character begin with those of its first bytes.
    vocabulary = trained_vocabulary("byte-level", size=300)
    whole = vocabulary.encode(text.encode())
    for count in range(len(whole) + 1):
        assert vocabulary.encode(vocabulary.decode(whole[:count])) == whole[:count]


@SHARED
@given(text=st.text(alphabet="the caé€你’\n<|>_im", max_size=20))
def test_a_prefix_of_an_encoding_is_an_encoding(vocabulary: ByteVocabulary, text: str) -> None:
    # Except for GPT-2's pattern on three consecutive white-space characters, two spaces, or a space
    # after a line feed (a word whose first token is its space), and for line feeds before a digit
    # if digits are split off first.
    data = re.sub(rb"\s*\n\s*\n\s*", b"\n\n", re.sub(rb" +", b" ", text.encode()))
    data = data.replace(b"\n ", b"\n")
    whole = vocabulary.encode(data.strip())
    for count in range(len(whole)):
        front = vocabulary.decode(whole[:count])
        assert vocabulary.encode_words(front, word_follows=True)[0] == whole[:count]


@given(data=st.binary(max_size=40))
def test_splitting_into_valid_and_rest_loses_nothing(data: bytes) -> None:
    joined = b"".join(text.encode() + rest for text, rest in valid_and_rest(data))
    assert joined == data
