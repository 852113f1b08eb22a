from __future__ import annotations

import json

import pytest

from floe_plugins.vllm_replies import ReplyError, SpelledError, read_rows, read_token_ids


@pytest.mark.parametrize(
    ("tokens", "ids"),
    [
        ([], []),
        (["token_id:7"], [7]),
        (["token_id:7", "token_id:49151"], [7, 49151]),
        ([" Paris"], None),
        (["token_id:7token_id:8"], None),
        ([" Paris", "token_id:7"], None),
        (["token_id:7", " Paris"], None),
    ],
)
def test_ids_are_read_and_spellings_are_not(tokens: list[str], ids: list[int] | None) -> None:
    assert read_token_ids(tokens) == ids


def test_what_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        read_token_ids(["token_id:7", "token_id:x"])


def reply(*choices: tuple[int, str]) -> bytes:
    """Return a reply with a token each, by the choices' indices and the token's spelling."""
    return json.dumps(
        {
            "choices": [
                {
                    "index": index,
                    "logprobs": {
                        "tokens": [token],
                        "top_logprobs": [{token: -1, "token_id:9": -2}],
                    },
                }
                for index, token in choices
            ]
        }
    ).encode()


def test_rows_are_in_the_order_of_the_prompts() -> None:
    found = read_rows(reply((1, "token_id:4"), (0, "token_id:3")), prompts=2)
    assert found == [([3], [([3, 9], [-1.0, -2.0])]), ([4], [([4, 9], [-1.0, -2.0])])]


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (reply((0, "token_id:3")), "has not one choice for each of 2 prompts"),
        (reply((0, "token_id:3"), (0, "token_id:3")), "has not one choice"),
        (reply(*((at, "token_id:3") for at in (0, 1, 1))), "has not one choice"),
        (b"<html>", r"is not a completion with logprobs \(JSONDecodeError\)"),
        (b"[]", r"logprobs \(TypeError\)"),
        (b"[" * 100_000, "RecursionError"),
        (reply((0, "token_id:x"), (1, "token_id:3")), "ValueError"),
    ],
)
def test_other_replies_are_a_clause(data: bytes, wrong: str) -> None:
    with pytest.raises(ReplyError, match=wrong):
        read_rows(data, prompts=2)


def test_spellings_are_an_error_of_their_own() -> None:
    with pytest.raises(SpelledError, match="gives tokens by their spelling"):
        read_rows(reply((0, " Paris")), prompts=1)
