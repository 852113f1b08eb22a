"""An ASGI application that answers completions as vLLM does, and a client in the same loop."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from floe_plugins.middleware.asgi import App, Headers, Scope, refuse

VOCABULARY = 1000


def row_of(prompt: Sequence[int], *, top_k: int) -> tuple[list[int], list[float]]:
    """Return the likeliest tokens after a prompt, and their logprobs: a function of its ids."""
    seed = zlib.crc32(json.dumps([*prompt]).encode())
    logits = np.random.default_rng(seed).normal(scale=4, size=VOCABULARY).astype(np.float32)
    logprobs = logits - np.float32(np.log(np.exp(logits).sum()))
    ids = np.argsort(-logprobs)[:top_k]
    return ids.tolist(), logprobs[ids].tolist()


class CompletionsServer:
    """Stands for vLLM, with the distributions of `row_of`; any GET has the list of models.

    Of a text it takes the bytes for its ids, and then it spells token `n` as ``" n"``.

    Parameters
    ----------
    key : str, optional
        The only API key that it takes.
    longest : int
        A longer prompt is answered with 400.

    Attributes
    ----------
    bodies : list of dict
        The requests that it has answered with 200.
    """

    def __init__(self, *, key: str | None = None, longest: int = 100_000) -> None:
        self.key = key
        self.longest = longest
        self.bodies: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer one request."""
        headers = dict(scope["headers"])
        if self.key and headers.get(b"authorization") != f"Bearer {self.key}".encode():
            await refuse(send, 401, "Unauthorized")
            return
        if scope["method"] == "GET":
            listed = json.dumps({"data": [{"id": "slm", "owned_by": "vllm"}]}).encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": listed})
            return
        event = await receive()
        assert int(headers[b"content-length"]) == len(event["body"])
        if headers.get(b"content-type") != b"application/json":
            await refuse(send, 400, "Unsupported Media Type")
            return
        body = json.loads(event["body"])
        if body["model"] != "slm":
            await refuse(send, 404, "no such model")
            return
        if max(map(len, _prompts(body))) > self.longest:
            await refuse(send, 400, "too long")
            return
        self.bodies.append(body)
        reply = json.dumps(
            {"choices": [self._choice(*each) for each in self._asked(body)]}
        ).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        half = len(reply) // 2
        await send({"type": "http.response.body", "body": reply[:half], "more_body": True})
        await send({"type": "http.response.body", "body": reply[half:]})

    def _asked(self, body: dict[str, Any]) -> list[tuple[int, list[int] | str, int, int]]:
        # Out of order, as vLLM need not keep it.
        return [
            (place, prompt, body["max_tokens"], body["logprobs"])
            for place, prompt in reversed([*enumerate(_prompts(body))])
        ]

    def _choice(
        self, place: int, prompt: list[int] | str, steps: int, top_k: int
    ) -> dict[str, Any]:
        spell = " {}" if isinstance(prompt, str) else "token_id:{}"
        text, rows = [*(prompt.encode() if isinstance(prompt, str) else prompt)], []
        begin = len(text)
        for _ in range(steps):
            ids, logprobs = row_of(text, top_k=top_k)
            rows.append(
                {spell.format(token): each for token, each in zip(ids, logprobs, strict=True)}
            )
            text.append(ids[0])
        own = [spell.format(token) for token in text[begin:]]
        return {"index": place, "logprobs": {"tokens": own, "top_logprobs": rows}}


def _prompts(body: dict[str, Any]) -> list[list[int] | str]:
    prompts: list[list[int] | str] | str = body["prompt"]
    return [prompts] if isinstance(prompts, str) else prompts


async def post(
    app: App,
    body: bytes,
    *,
    content_type: bytes = b"application/json",
    key: str | None = None,
    path: str = "/v1/completions",
    headers: Headers = (),
) -> tuple[int, Headers, bytes]:
    """Send a request to an application; return status, headers and body of its reply."""
    given = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    if key is not None:
        given.append((b"authorization", f"Bearer {key}".encode()))
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [*given, *headers],
        "query_string": b"",
    }
    events: list[Any] = []
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        # The client stays connected.
        return waiting.pop() if waiting else await asyncio.Future()

    async def send(event: Any) -> None:
        events.append(event)

    await app(scope, receive, send)
    (start,) = (event for event in events if event["type"] == "http.response.start")
    pieces = [event["body"] for event in events if event["type"] == "http.response.body"]
    return start["status"], start["headers"], b"".join(pieces)
