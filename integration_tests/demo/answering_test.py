"""Requests and replies of the two routes that the demonstration asks by; answers that are right."""

from __future__ import annotations

from typing import Any

import pytest

from flower_strategy.profile import Form
from integration_tests.demo.answering import Answer, Written, answered, question
from integration_tests.demo.page import gained
from integration_tests.demo.prompts import PROMPTS

CHAT = {
    "index": 0,
    "finish_reason": "stop",
    "message": {"role": "assistant", "content": " 16."},
    "logprobs": {
        "content": [
            {"token": " 16", "logprob": -0.1, "bytes": None, "top_logprobs": []},
            {"token": ".", "logprob": -0.2, "bytes": None, "top_logprobs": []},
        ]
    },
}
PLAIN = {
    "index": 0,
    "finish_reason": "length",
    "text": " 16.",
    "logprobs": {"tokens": [" 16", "."]},
}
#: llama.cpp's.
LISTED = {**PLAIN, "logprobs": {"content": [{"token": " 16"}, {"token": "."}]}}
RECORD = ' {"name": "Ada Ito", "age": 34, "job": "baker", "city": "Osaka"}'


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("chat", {"messages": [{"role": "user", "content": "7 + 9?"}], "logprobs": True}),
        ("plain", {"prompt": "7 + 9?", "logprobs": 1}),
    ],
)
def test_a_prompt_is_asked_in_the_form_of_its_adapter(form: Form, body: dict[str, Any]) -> None:
    assert question("7 + 9?", form, max_tokens=5) == {**body, "max_tokens": 5}


@pytest.mark.parametrize(
    ("choice", "ended"),
    [(CHAT, True), (PLAIN, False), (LISTED, False)],
    ids=["chat", "plain", "llama.cpp"],
)
def test_a_reply_of_either_route_has_text_and_tokens(choice: dict[str, Any], ended: bool) -> None:
    assert answered(choice) == Written(" 16.", [" 16", "."], ended)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        (
            "arithmetic",
            " 12 + 9 = 21. 21 - 5 = 16. The answer is 16.",
            " 12 + 9 = 21. 21 - 16 = 5.",
        ),
        ("code", " number % 2 == 0", " number % 2 == 0 and number"),
        ("record", RECORD, f"{RECORD}\n{RECORD}"),
        ("contact", " 8 + 3 = 11. The answer is 11.", " 8 + 3 = 11. The answer is 111."),
    ],
)
def test_answers_are_right_or_wrong(name: str, right: str, wrong: str) -> None:
    (prompt,) = [each for each in PROMPTS if each.name == name]
    assert prompt.is_right(right)
    assert not prompt.is_right(wrong)
    assert not prompt.is_right("")


def test_the_line_on_what_was_gained_counts_right_answers() -> None:
    arithmetic, _, record, card, _ = PROMPTS
    answers = [
        Answer(arithmetic, "clear", (), "cluster-0", "so 16", host_text="5", slm_text="16"),
        Answer(record, "clear", (), "cluster-1", RECORD, host_text="Ada", slm_text="{}"),
        Answer(card, "local", ("CARD",), "cluster-1", "{}"),
    ]
    said = gained(answers)
    assert "to the 2 prompts" in said
    assert "the LLM alone 0, the SLM alone 1, both together 2." in said
    assert "other 1 on the device" in said
