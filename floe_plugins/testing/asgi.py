"""A server behind the middleware, a client in front of it, and private requests."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from floe_plugins.gate import Profile
from floe_plugins.gate.settings import GateSettings
from floe_plugins.middleware.privacy_gate import PrivacyGate

MAIL = "joe.bloggs@example.org"
CHAT = "/v1/chat/completions"


class Server:
    """An ASGI application that records its requests and answers with one stream."""

    def __init__(self, *, key: str | None = None) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        self.key = key

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        if self.key and headers.get(b"authorization") != f"Bearer {self.key}".encode():
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})
            return
        event = await receive()
        assert not event.get("more_body")
        if scope["method"] == "POST":
            assert int(headers[b"content-length"]) == len(event["body"])
            self.raw.append(event["body"])
            self.bodies.append(json.loads(event["body"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"data: 1\n\n", b"data: 2\n\n"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class Reply:
    """The response to a request."""

    def __init__(self, events: list[Any]) -> None:
        self.pieces = [event["body"] for event in events if event.get("body")]
        starts = [event for event in events if event["type"] == "http.response.start"]
        self.status = starts[0]["status"] if starts else None
        self.headers = dict(starts[0]["headers"]) if starts else {}
        assert len(starts) <= 1

    @property
    def verdict(self) -> str:
        return str(self.headers.get(b"x-floe-verdict", b"").decode())

    @property
    def from_cloud(self) -> bool:
        return self.headers.get(b"x-floe-answered-by") == b"cloud"


def ask(
    gate: PrivacyGate,
    body: object,
    path: str = CHAT,
    *,
    chunk: int = 1 << 20,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    gone_after_s: float | None = None,
    method: str = "POST",
    root_path: str = "",
) -> Reply:
    """Send a request as a server does; the client stays connected until it has its answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    pieces = [content[at : at + chunk] for at in range(0, max(1, len(content)), chunk)]
    events: list[Any] = []

    async def run() -> None:
        finished = asyncio.Event()
        waiting = iter(enumerate(pieces, start=1))

        async def receive() -> dict[str, Any]:
            for number, piece in waiting:
                more = number < len(pieces)
                return {"type": "http.request", "body": piece, "more_body": more}
            if gone_after_s is not None:
                await asyncio.sleep(gone_after_s)
            else:
                await finished.wait()
            return {"type": "http.disconnect"}

        async def send(event: Any) -> None:
            events.append(event)

        length = (b"content-length", str(len(content)).encode())
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [length, *headers],
            "query_string": b"",
            "root_path": root_path,
        }
        await gate(scope, receive, send)
        finished.set()

    asyncio.run(asyncio.wait_for(run(), timeout=30))
    return Reply(events)


SETTINGS = GateSettings(profile=Profile.STRICT, detectors=("email", "card", "us-ssn"), timeout_s=30)


def user(content: object, **more: Any) -> dict[str, Any]:
    """Return the body of a chat request with one message of the user."""
    return {"model": "m", "messages": [{"role": "user", "content": content}], **more}


PRIVATE: dict[str, tuple[str, dict[str, Any]]] = {
    "a prompt": ("/v1/completions", {"prompt": f"mail {MAIL}"}),
    "one prompt of several": ("/v1/completions", {"prompt": ["hello", f"mail {MAIL}"]}),
    "token ids": ("/v1/completions", {"prompt": [1, 2, 3]}),
    "lists of token ids": ("/v1/completions", {"prompt": [[1, 2], [3]]}),
    "embeddings": ("/v1/completions", {"prompt": None, "prompt_embeds": "AAAA"}),
    "a suffix": ("/v1/completions", {"prompt": "a", "suffix": MAIL}),
    "a chat": (CHAT, user(f"mail {MAIL}")),
    "a part": (CHAT, user([{"type": "text", "text": MAIL}])),
    "an image": (CHAT, user([{"type": "image_url", "image_url": {"url": "https://x/y.png"}}])),
    "a split value": (
        CHAT,
        user([{"type": "text", "text": each} for each in (MAIL[:12], MAIL[12:])]),
    ),
    "a system prompt": (CHAT, {"messages": [{"role": "system", "content": MAIL}]}),
    "arguments of a tool call": (
        CHAT,
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "1", "function": {"name": "f", "arguments": f'{{"to": "{MAIL}"}}'}}
                    ],
                }
            ]
        },
    ),
    "a tool's result": (CHAT, {"messages": [{"role": "tool", "content": MAIL}]}),
    "a tool's description": (
        CHAT,
        user("hi", tools=[{"type": "function", "function": {"description": MAIL}}]),
    ),
    "a field that nobody knows": (CHAT, user("hi", metadata={"note": {"deep": [MAIL]}})),
    "a key": (CHAT, user("hi", logit_bias={MAIL: 1})),
    "a number": (CHAT, user("hi", metadata={"card": 4111111111111111})),
    "invalid Unicode": (CHAT, user("lone \ud800")),
    "a name": (CHAT, {"messages": [{"role": "user", "name": MAIL, "content": "hi"}]}),
    "responses": ("/v1/responses", {"input": MAIL}),
    "responses' instructions": ("/v1/responses", {"input": "hi", "instructions": MAIL}),
    "responses' items": (
        "/v1/responses",
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": MAIL}]}]},
    ),
    "responses' tool output": (
        "/v1/responses",
        {"input": [{"type": "function_call_output", "call_id": "1", "output": MAIL}]},
    ),
    "an earlier response": ("/v1/responses", {"input": "hi", "previous_response_id": "r1"}),
    "messages": ("/v1/messages", user(MAIL)),
    "a slash at the end": ("/v1/completions/", {"prompt": MAIL}),
}
