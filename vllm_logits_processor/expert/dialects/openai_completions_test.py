from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.expert.dialects.dialect import Expected
from vllm_logits_processor.expert.dialects.openai_completions import OpenAiDialect, Spellings
from vllm_logits_processor.expert.protocol import Continuation, ExpertError
from vllm_logits_processor.testing.tokenizers import trained_vocabulary

VOCABULARY = trained_vocabulary("byte-level")
THE, CAT = VOCABULARY.encode(b" the")[0], VOCABULARY.encode(b" cat")[0]


def dialect_of(tokenizer: ByteVocabulary | None = VOCABULARY) -> OpenAiDialect:
    return OpenAiDialect(
        Expected(
            top_k=3,
            vocabulary=len(VOCABULARY),
            end_ids=np.empty(0, dtype=np.int32),
            tokenizer=tokenizer,
        )
    )


def classic(*rows: dict[str, float], own: list[str] | None = None) -> dict[str, Any]:
    """Return logprobs as vLLM and OpenAI's completions write them."""
    return {
        "text_offset": [0] * len(rows),
        "token_logprobs": [-0.5] * len(rows),
        "tokens": own or [next(iter(row), "") for row in rows],
        "top_logprobs": list(rows),
    }


def content(*rows: list[tuple[str, list[int] | None, float]]) -> dict[str, Any]:
    """Return logprobs as llama.cpp and chat servers write them."""
    entries = [
        [{"token": token, "bytes": data, "logprob": p} for token, data, p in row] for row in rows
    ]
    return {"content": [{**row[0], "top_logprobs": row} for row in entries]}


def read(*logprobs: dict[str, Any], steps: int = 1) -> list[Continuation]:
    choices = [{"index": place, "logprobs": each} for place, each in enumerate(logprobs)]
    body = json.dumps({"choices": choices}).encode()
    said = dialect_of().read(body, count=len(logprobs), steps=steps)
    assert all(each is not None for each in said)
    return [each for each in said if each is not None]


def row_of(said: Continuation, step: int = 0) -> dict[int, float]:
    top = said.top.row(step)
    pairs = zip(top.token_ids[0].tolist(), top.logprobs[0].tolist(), strict=True)
    return {token: logprob for token, logprob in pairs if token != NOTHING}


def test_both_formats_are_read_alike() -> None:
    one, other = read(
        classic({" the": -0.5, " cat": -2.0}),
        content([(" the", [*b" the"], -0.5), (" cat", None, -2.0)]),
    )
    for said in (one, other):
        assert said.tokens.tolist() == [THE]
        assert row_of(said) == {THE: -0.5, CAT: -2.0}


def test_order_does_not_matter() -> None:
    (said,) = read(classic({" cat": -2.0, " the": -0.5}, own=["\N{REPLACEMENT CHARACTER}"]))
    assert said.tokens.tolist() == [THE]
    assert row_of(said) == {THE: -0.5, CAT: -2.0}


def test_a_spelling_that_is_no_text_says_nothing_unless_its_bytes_are_given() -> None:
    half = "\N{REPLACEMENT CHARACTER}"
    (byte,) = VOCABULARY.encode(b"\xf0")
    without, escaped, given = read(
        classic({" the": -0.5, half: -1.5}),
        classic({" the": -0.5, "bytes:\\xf0": -1.5}),
        content([(" the", [*b" the"], -0.5), (half, [0xF0], -1.5)]),
    )
    assert row_of(without) == {THE: -0.5}
    assert row_of(escaped) == row_of(given) == {THE: -0.5, byte: -1.5}


def test_tokens_of_one_spelling_are_the_one_that_the_tokenizer_makes() -> None:
    (said,) = read(
        content([(" the", [*b" the"], math.log(0.25)), (" the", [*b" the"], math.log(0.5))])
    )
    assert row_of(said) == {THE: pytest.approx(math.log(0.75))}


def test_the_canonical_one_of_several_tokens_is_taken() -> None:
    sentencepiece = trained_vocabulary("sentencepiece")
    shared = {
        data: token
        for token, data in enumerate(sentencepiece.token_bytes)
        if data and sentencepiece.token_bytes.count(data) > 1
    }
    assert shared
    made = {data: sentencepiece.encode(data) for data in shared}
    single = {data: ids[0] for data, ids in made.items() if len(ids) == 1}
    assert single
    spellings = Spellings(sentencepiece)
    assert {data: spellings.id_of(data) for data in single} == single


def test_a_row_that_is_all_half_characters_leaves_the_host_alone() -> None:
    half, whole = read(classic({"\N{REPLACEMENT CHARACTER}": -0.1}), classic({" the": -0.5}))
    assert half.tokens.tolist() == []
    assert row_of(half) == {}
    assert row_of(whole) == {THE: -0.5}


def test_steps_end_where_a_token_is_not_known() -> None:
    rows = ({" the": -0.5}, {" cat": -0.5}, {" the": -0.5})
    (whole,) = read(classic(*rows), steps=3)
    assert whole.tokens.tolist() == [THE, CAT, THE]
    own = [" the", "no such token", " the"]
    (part,) = read(classic(*rows, own=own), steps=3)
    assert part.tokens.tolist() == [THE, CAT]
    assert row_of(part, 1) == {CAT: -0.5}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "not a completion"),
        (b'{"choices": []}', "not one choice for each"),
        (b'{"choices": [{"index": 0, "logprobs": null}]}', "not a completion"),
        (b'{"choices": [{"index": 0, "logprobs": {"content": [3]}}]}', "not a completion"),
        (
            b'{"choices": [{"index": 0, "logprobs": {"content": [{"token": "a", "bytes": [999], '
            b'"top_logprobs": []}]}}]}',
            "not a completion",
        ),
    ],
)
def test_a_broken_reply_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(ExpertError, match=reason):
        dialect_of().read(body, count=1, steps=1)


@pytest.mark.parametrize("data", [10**15, 3, "abc", [True], [1.0], [256], [-1], [97] * 257])
def test_bytes_that_are_no_list_of_bytes_are_refused(data: Any) -> None:
    with pytest.raises(ExpertError, match=r"not a completion .*\((Type|Value)Error\)"):
        read(content([("a", data, -0.5)]))


@pytest.mark.parametrize(
    ("logprobs", "reason"),
    [
        (classic({"Zürich": -0.5}), "none of the configured tokenizer's tokens"),
        (classic({" the": 0.5}), "NaN or above zero"),
        (classic({" the": math.nan}), "NaN or above zero"),
        (classic({" the": -0.1, " cat": -0.1}), "more than one"),
        (classic({" the": -0.5}, own=[" the", " cat"]), "2 tokens and 1 distributions"),
    ],
)
def test_a_reply_that_cannot_be_is_refused(logprobs: dict[str, Any], reason: str) -> None:
    with pytest.raises(ExpertError, match=reason):
        read(logprobs)


def test_prompts_are_text_and_those_that_are_none_are_not_asked_about() -> None:
    dialect = dialect_of()
    half = VOCABULARY.encode("the 🙂".encode()[:-1])
    prompts = [VOCABULARY.encode(b"the cat"), half, VOCABULARY.encode(b"a cat")]
    assert [list(places) for places in dialect.rounds(prompts)] == [[0, 2]]
    assert dialect.rounds([half]) == ()
    assert dialect.body([prompts[0]], model="m", steps=2)["prompt"] == "the cat"
    assert dialect.body([prompts[0]] * 2, model="m", steps=2)["prompt"] == ["the cat"] * 2


def test_special_tokens_are_sent_by_their_names_but_not_the_first() -> None:
    tokenizer = trained_vocabulary("sentencepiece")
    end = min(tokenizer.end_ids)
    spellings = Spellings(tokenizer)
    text = spellings.text([*tokenizer.bos_ids, *tokenizer.encode(b"a cat"), end])
    assert text is not None
    assert text.startswith("a cat")
    assert text.endswith(tokenizer.encoder.id_to_token(end) or "")


def test_without_a_tokenizer_there_are_no_spellings() -> None:
    with pytest.raises(ExpertError, match=r"expert\.tokenizer must"):
        dialect_of(None)
