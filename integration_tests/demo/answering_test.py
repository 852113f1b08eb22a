"""Requests and replies of the two routes that the demonstration asks by."""

from __future__ import annotations

from typing import Any

import pytest

from flower_strategy.profile import Form
from integration_tests.demo.answering import answered, question

CHAT = {
    "index": 0,
    "message": {"role": "assistant", "content": " 16."},
    "logprobs": {
        "content": [
            {"token": " 16", "logprob": -0.1, "bytes": None, "top_logprobs": []},
            {"token": ".", "logprob": -0.2, "bytes": None, "top_logprobs": []},
        ]
    },
}
PLAIN = {"index": 0, "text": " 16.", "logprobs": {"tokens": [" 16", "."]}}


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("chat", {"messages": [{"role": "user", "content": "7 + 9?"}], "logprobs": True}),
        ("plain", {"prompt": "7 + 9?", "logprobs": 1}),
    ],
)
def test_a_prompt_is_asked_in_the_form_of_its_adapter(form: Form, body: dict[str, Any]) -> None:
    assert question("7 + 9?", form, max_tokens=5) == {**body, "max_tokens": 5}


@pytest.mark.parametrize("choice", [CHAT, PLAIN], ids=["chat", "plain"])
def test_a_reply_of_either_route_has_text_and_tokens(choice: dict[str, Any]) -> None:
    assert answered(choice) == (" 16.", [" 16", "."])
