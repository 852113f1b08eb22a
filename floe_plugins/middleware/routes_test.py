from __future__ import annotations

import asyncio
from typing import Any

import pytest

from floe_plugins.middleware.privacy_gate import PrivacyGate
from floe_plugins.middleware.routes import is_free_of_text, kept_here, path_of
from floe_plugins.testing.asgi import CHAT, MAIL, SETTINGS, Server, ask, user

GENERATE = "/inference/v1/generate"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/decisions", {"state": MAIL, "questions": {"q": {"type": "bool"}}}),
        ("/v1/systemone", {"state": {"note": MAIL}, "questions": {}}),
        ("/v1/systemone", {"state": "hi", "questions": {"q": {"instructions": MAIL}}}),
        ("/v1/systemone", {"state": "hi", "questions": {}, "videos": ["https://x/y.mp4"]}),
        ("/generative_scoring", {"query": MAIL, "items": ["a"], "label_token_ids": [1]}),
        ("/generative_scoring", {"query": "my card is 4111 1111", "items": ["1111 1111"]}),
        ("/generative_scoring", {"query": "a", "items": [[1, 2]], "label_token_ids": [1]}),
        ("/cohere/v2/chat", user(MAIL)),
        ("/v9/a-route-of-next-year", {"anything": {"deep": [MAIL]}}),
    ],
)
def test_what_cannot_be_kept_here_is_refused(path: str, body: dict[str, Any]) -> None:
    server = Server()
    gate = PrivacyGate(server, settings=SETTINGS)
    reply = ask(gate, {**body, "vllm_xargs": {"floe": "host"}}, path)
    assert (reply.status, server.bodies) == (400, [])
    assert b"this route has no field that says so" in reply.pieces[0]
    assert b"bloggs" not in reply.pieces[0]
    assert ask(gate, {"query": "What is 2 + 2?"}, path).status == 200


def test_token_ids_are_kept_here_where_their_options_are() -> None:
    server = Server()
    body = {"token_ids": [1, 2], "sampling_params": {"extra_args": {"floe": "fused"}}}
    assert ask(PrivacyGate(server, settings=SETTINGS), body, GENERATE).verdict == "local"
    (seen,) = server.bodies
    assert seen["sampling_params"] == {"extra_args": {"floe": "host"}}


def test_a_prompt_that_is_transferred_as_ids_cannot_be_read() -> None:
    server = Server()
    body = user("hi", kv_transfer_params={"prompt_token_ids": [1, 2]})
    assert ask(PrivacyGate(server, settings=SETTINGS), body, CHAT).verdict == "local"


@pytest.mark.parametrize(
    "headers",
    [
        ((b"content-encoding", b"gzip"),),
        ((b"Content-Type", b"multipart/form-data; boundary=x"),),
        ((b"content-type", b"application/x-www-form-urlencoded"),),
        ((b"content-type", b"application/json; charset=utf-7"),),
        ((b"content-type", b"application/json"), (b"content-type", b"text/plain")),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/audio/transcriptions"])
def test_a_body_in_another_form_is_refused(
    headers: tuple[tuple[bytes, bytes], ...], path: str
) -> None:
    server = Server()
    reply = ask(PrivacyGate(server, settings=SETTINGS), user("hi"), path, headers=headers)
    assert (reply.status, server.bodies) == (415, [])


@pytest.mark.parametrize(
    "value", [b"application/json", b"Application/JSON; charset=UTF-8", b"application/x+json"]
)
def test_json_is_read(value: bytes) -> None:
    headers = ((b"content-type", value), (b"content-encoding", b"identity"))
    gate = PrivacyGate(Server(), settings=SETTINGS)
    assert ask(gate, user("hi"), headers=headers).verdict == "clear"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "QUERY"])
@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("/V1/Chat/Completions", ""),
        ("//v1/chat/completions", ""),
        ("/v1/chat/completions/", ""),
        ("/tokenize/", ""),
        ("/Tokenize", ""),
        ("/v1/responses/a/b/cancel", ""),
        ("/tokenizev1/completions", "/tokenize"),
        ("/base/v1/completions", "/base"),
    ],
)
def test_no_way_to_write_a_path_slips_past(method: str, path: str, root: str) -> None:
    server = Server()
    gate = PrivacyGate(server, settings=SETTINGS)
    reply = ask(gate, b"mail " + MAIL.encode(), path, method=method, root_path=root)
    assert (reply.status, server.raw) == (400, [])


def test_a_path_below_a_root_is_known() -> None:
    assert is_free_of_text(path_of({"path": "/base/tokenize", "root_path": "/base"}))
    assert not is_free_of_text(path_of({"path": "/basetokenize", "root_path": "/base"}))
    body = kept_here("/v1/completions/", {"prompt": "a"})
    assert body == {"prompt": "a", "vllm_xargs": {"floe": "host"}}


def test_an_open_connection_is_refused() -> None:
    events: list[Any] = []

    async def send(event: Any) -> None:
        events.append(event)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/v1/realtime", "headers": []}
    asyncio.run(PrivacyGate(Server(), settings=SETTINGS)(scope, receive, send))
    assert [event["type"] for event in events] == ["websocket.close"]
