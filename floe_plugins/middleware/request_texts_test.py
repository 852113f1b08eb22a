from __future__ import annotations

from typing import Any

import pytest

from floe_plugins.gate import Decision, Gate, Message
from floe_plugins.middleware.request_texts import texts_of, with_texts

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather.",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"type": "string", "enum": ["celsius"]}},
            "required": ["unit"],
        },
    },
}


def test_of_an_ordinary_request_only_what_is_said_is_read() -> None:
    body: dict[str, Any] = {
        "model": "org/Some-Model-7B",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is 2 + 2?"}]},
        ],
        "temperature": 0.7,
        "seed": 1234567,
        "stream": True,
        "logit_bias": {"50256": -100},
        "tools": [TOOL],
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
        "vllm_xargs": {"floe": "fused"},
    }
    texts = texts_of(body)
    assert texts.readable
    assert texts.messages == [
        Message("Be brief.", "system"),
        Message("What is 2 + 2?", "user"),
        Message("Get the weather.", None, "tools"),
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"user": "joe"}, ["joe"]),
        ({"metadata": {"Joe Bloggs": 12345678}}, ["Joe Bloggs", "12345678"]),
        ({"messages": [{"role": "user", "name": "joe", "content": None}]}, ["joe"]),
        ({"messages": [{"role": "Joe Bloggs", "content": "hi"}]}, ["hi", "Joe Bloggs"]),
        ({"stop": ["end", "stop here"]}, ["end", "stop here"]),
        ({"tool_choice": "call joe@example.org"}, ["call joe@example.org"]),
        ({"messages": "not a list"}, ["not a list"]),
        ({"messages": [["nested", 7]]}, ["nested"]),
        ({"input": [{"type": "function_call_output", "output": "It rains."}]}, ["It rains."]),
        ({"prompt": ["a", "b"]}, ["a", "b"]),
    ],
)
def test_everything_else_is(body: dict[str, Any], expected: list[str]) -> None:
    assert [message.text for message in texts_of(body).messages] == expected


URL = "https://example.org/scan.png"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": URL}},
        # vLLM recognises these by key; the type may be missing, or differ beside a uuid.
        {"image_url": URL},
        {"type": "text", "text": "look", "image_url": None, "uuid": "1"},
        {"type": "image_pil", "image_pil": URL},
        {"type": "audio_embeds", "audio_embeds": "AAAA"},
        {"type": "video_embeds", "video_embeds": "AAAA"},
        {"type": "prompt_embeds", "data": "AAAA"},
        {"type": "input_file", "file_id": "file-1"},
        {"type": "document", "source": {"type": "url", "url": URL}},
        {"type": "redacted_thinking", "data": "AAAA"},
        {"type": "hologram", "data": "AAAA"},
        {"type": ["text"], "text": "look"},
        {"type": None, "text": "look"},
        {"type": "tool_result", "content": [{"type": "image", "source": {"data": "AAAA"}}]},
    ],
)
def test_what_is_no_text_cannot_be_read(part: dict[str, Any]) -> None:
    assert not texts_of({"messages": [{"role": "user", "content": [part]}]}).readable
    assert not texts_of(
        {"input": [{"type": "message", "role": "user", "content": [part]}]}
    ).readable


@pytest.mark.parametrize(
    "body",
    [
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"type": "reasoning", "encrypted_content": "AAAA", "summary": []}]},
        {"input": [{"type": "function_call_output", "output": [{"type": "input_image"}]}]},
        {"input": [{"type": "web_search_call", "id": "ws_1"}]},
        {"previous_response_id": "resp_1", "input": "go on"},
        {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]},
        {"messages": {"image_url": URL}},
        {"prompt": {"id": "p", "variables": {"scan": {"type": "input_image"}}}},
        {"prompt": [1, 2, 3]},
        {"prompt": "what is in it?", "images": ["AAAA"]},
    ],
)
def test_nor_what_a_server_keeps(body: dict[str, Any]) -> None:
    assert not texts_of(body).readable


@pytest.mark.parametrize(
    "body",
    [
        {
            "input": [
                {"type": "message", "content": [{"type": "input_text", "text": "a"}]},
                {
                    "type": "reasoning",
                    "encrypted_content": None,
                    "summary": [{"type": "summary_text"}],
                },
                {"type": "function_call", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "output": "b"},
            ]
        },
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "input": {"type": "invoice", "file": "a"}}],
                    "tool_calls": [{"type": "function", "function": {"name": "f"}}],
                },
                {"role": "user", "content": [{"type": "tool_result", "content": "c"}]},
            ]
        },
    ],
)
def test_tools_can_be_used(body: dict[str, Any]) -> None:
    assert texts_of(body).readable


def test_texts_are_put_back_in_their_places() -> None:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "from Joe"}],
        "user": "Joe",
        "metadata": {"deep": ["Joe", 1]},
    }
    before = [message.text for message in texts_of(body).messages]
    assert with_texts(body, before) == body
    after = with_texts(body, [text.replace("Joe", "<PERSON>") for text in before])
    assert after == {
        "messages": [{"role": "user", "content": "from <PERSON>"}],
        "user": "<PERSON>",
        "metadata": {"deep": ["<PERSON>", 1]},
    }


def test_alike_texts_that_would_change_in_different_ways_do_not_leave() -> None:
    """A card number is split over the first two; of the third, only the address is private."""
    begun = "joe@example.org 4111 1111"
    body = {"prompt": [begun, "1111 1111", begun]}
    verdict = Gate(detectors=["card", "email"], policy="redact", timeout_s=30).decide(
        texts_of(body).messages
    )
    assert verdict.redacted_messages == ("<EMAIL> <CARD>", "<CARD>", "<EMAIL> 4111 1111")
    assert with_texts(body, verdict.redacted_messages) is None


@pytest.mark.parametrize("body", [{"metadata": {"Joe Bloggs": 1}}, {"metadata": {"id": 12345678}}])
def test_there_is_no_placeholder_for_keys_and_numbers(body: dict[str, Any]) -> None:
    assert with_texts(body, ["<X>"] * len(texts_of(body).messages)) is None


def test_texts_beside_a_conversation_know_their_field() -> None:
    body = {
        "messages": [{"role": "assistant", "content": "hi", "tool_calls": [{"x": "a text"}]}],
        "tools": [{"description": "write to joe@example.org"}],
        "user": "some one",
    }
    fields = {message.text: message.field for message in texts_of(body).messages}
    assert fields["hi"] is None
    assert fields["a text"] == "tool_calls"
    assert fields["write to joe@example.org"] == "tools"
    assert fields["some one"] == "user"
    assert Gate(detectors=["email"]).decide(texts_of(body).messages).decision is Decision.CLEAR


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "tool", "tool_call_id": "call_9fKx2bQ41zD0", "content": "ok"},
        {
            "role": "assistant",
            "content": "ok",
            "tool_calls": [{"id": "toolu_01A09q90qw90lq917835"}],
        },
        {
            "role": "assistant",
            "content": [
                {
                    "type": "thinking",
                    "thinking": "ok",
                    "signature": f"{'EqoBCkgIARABGAIiQL8kqH+' * 4}/aA==",
                }
            ],
        },
        {"role": "user", "content": "ok", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"},
        {"role": "user", "content": "ok", "id": "3f2504e0-4f89-11d3-9a0c-0305e82c3301"},
    ],
)
def test_ids_and_seals_of_a_protocol_are_no_text(turn: dict[str, Any]) -> None:
    assert [message.text for message in texts_of({"messages": [turn]}).messages] == ["ok"]


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"id": "emma@example.org"}, "emma@example.org"),
        ({"tool_call_id": "078-05-1120"}, "078-05-1120"),
        ({"trace_id": "call Emma Johnson at home"}, "call Emma Johnson at home"),
        ({"signature": "EqoBCkgIARABGAIiQL8kqH"}, "EqoBCkgIARABGAIiQL8kqH"),
        ({"comment": "call_9fKx2bQ41zD0"}, "call_9fKx2bQ41zD0"),
        ({"id": "4111111111111111"}, "4111111111111111"),
        ({"tool_call_id": "call_4155550123"}, "call_4155550123"),
        ({"tool_call_id": "call_415-555-0123"}, "call_415-555-0123"),
        ({"id": "item_emma-johnson"}, "item_emma-johnson"),
        ({"id": "msg_AKIAQWERTZUIOPASDF12"}, "msg_AKIAQWERTZUIOPASDF12"),
        ({"id": "item_GB82--WEST1234--5698--765432"}, "item_GB82--WEST1234--5698--765432"),
        ({"type": "c-4111-1111-1111-1111"}, "c-4111-1111-1111-1111"),
    ],
)
def test_other_values_in_their_place_are(part: dict[str, str], text: str) -> None:
    turn = {"role": "user", "content": "ok", **part}
    assert text in [message.text for message in texts_of({"messages": [turn]}).messages]
