from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from vllm_logits_processor.alignment.unknown import bytes_alone
from vllm_logits_processor.expert.dialects.detect import Detected, make_dialect
from vllm_logits_processor.expert.dialects.dialect import Dialect, Expected
from vllm_logits_processor.expert.dialects.unknown_tokenizer import UnknownTokenizerDialect
from vllm_logits_processor.expert.protocol import Continuation, ExpertError
from vllm_logits_processor.testing.tokenizers import trained_vocabulary


def dialect_of(*, known: bool = False) -> Dialect:
    vocabulary = trained_vocabulary("byte-level") if known else bytes_alone()
    expected = Expected(
        top_k=3, vocabulary=256, end_ids=np.empty(0, dtype=np.int32), tokenizer=vocabulary
    )
    return make_dialect(Detected(api="openai-completions", why="told"), expected, base=None)


def read(*rows: Any) -> list[Continuation]:
    logprobs = [
        {"content": [{**row[0], "top_logprobs": row}]}
        if isinstance(row, list)
        else {"tokens": [next(iter(row))], "top_logprobs": [row]}
        for row in rows
    ]
    choices = [{"index": place, "logprobs": each} for place, each in enumerate(logprobs)]
    said = dialect_of().read(json.dumps({"choices": choices}).encode(), count=len(choices), steps=1)
    return [each for each in said if each is not None]


def row_of(said: Continuation) -> dict[bytes, float]:
    logprobs = said.top.logprobs[0]
    return {each.data: float(logprobs[each.place]) for each in said.top.spelled}


def test_it_is_chosen_where_the_tokenizer_is_not_known() -> None:
    assert isinstance(dialect_of(), UnknownTokenizerDialect)
    assert not isinstance(dialect_of(known=True), UnknownTokenizerDialect)
    lacks = dialect_of().abilities.lacks()
    assert "its tokenizer is not known" in lacks
    assert "the tokenizer cannot tell" not in lacks


def test_prompts_are_the_text_and_one_token_is_asked_for() -> None:
    dialect = dialect_of()
    prompts = ["the 🙂".encode(), "the 🙂".encode()[:-1], b"", b"a cat"]
    assert [list(places) for places in dialect.rounds(prompts)] == [[0, 3]]
    assert dialect.rounds([prompts[1]]) == ()
    one = dialect.body([prompts[0]], model="slm", steps=4)
    assert (one["prompt"], one["max_tokens"], one["logprobs"]) == ("the 🙂", 1, 3)
    assert dialect.body([b"a", b"b"], model="slm", steps=1)["prompt"] == ["a", "b"]


def test_spellings_stay_bytes_in_either_format() -> None:
    half = "\N{REPLACEMENT CHARACTER}"
    one, other = read(
        {" the": -0.5, "Zürich": -2.0, "bytes:\\xf0": -3.0, half: -3.0},
        [
            {"token": " the", "bytes": None, "logprob": -0.5},
            {"token": "Zürich", "bytes": [*"Zürich".encode()], "logprob": -2.0},
            {"token": half, "bytes": [0xF0], "logprob": -3.0},
            {"token": "", "bytes": [], "logprob": -3.0},
        ],
    )
    assert row_of(one) == row_of(other) == {b" the": -0.5, "Zürich".encode(): -2.0, b"\xf0": -3.0}
    assert one.tokens.tolist() == []
    assert one.top.token_ids.max() < 0


def test_tokens_of_one_spelling_add_up() -> None:
    entry = {"token": " the", "bytes": None}
    (said,) = read([{**entry, "logprob": math.log(0.25)}, {**entry, "logprob": math.log(0.5)}])
    assert row_of(said) == {b" the": pytest.approx(math.log(0.75))}


def test_a_row_that_says_nothing_leaves_the_host_alone() -> None:
    (said,) = read({"\N{REPLACEMENT CHARACTER}": -0.1})
    assert row_of(said) == {}
    assert said.top.logprobs.tolist() == [[-math.inf]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({" the": 0.5}, "NaN or above zero"),
        ({" the": math.nan}, "NaN or above zero"),
        ({" the": -0.1, " cat": -0.1}, "more than one"),
    ],
)
def test_a_reply_that_cannot_be_is_refused(row: dict[str, float], reason: str) -> None:
    with pytest.raises(ExpertError, match=reason):
        read(row)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "not a completion"),
        (b'{"choices": []}', "not one choice for each"),
        (
            b'{"choices": [{"index": 0, "logprobs": {"tokens": [], "top_logprobs": []}}]}',
            "has no logprobs",
        ),
        (
            b'{"choices": [{"index": 0, "logprobs": {"tokens": ["a"], "top_logprobs": [{}]}}]}',
            "has no logprobs",
        ),
    ],
)
def test_a_broken_reply_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(ExpertError, match=reason):
        dialect_of().read(body, count=1, steps=1)


def test_no_prompt_is_scored() -> None:
    with pytest.raises(ExpertError, match="scores no prompts"):
        dialect_of().score_body(b"the cat", model="slm")
