"""The parts of ASGI that the middleware needs, without a framework."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers = Sequence[tuple[bytes, bytes]]


class DisconnectedError(Exception):
    """The client disconnected before its request was complete."""


class TooLargeError(Exception):
    """The request's body is too large."""


async def read_body(receive: Receive, *, most: int) -> bytes:
    """Return the whole body of a request.

    Raises
    ------
    DisconnectedError, TooLargeError
    """
    chunks, size = [], 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise DisconnectedError
        chunk = event.get("body", b"")
        size += len(chunk)
        if size > most:
            raise TooLargeError
        chunks.append(chunk)
        if not event.get("more_body", False):
            return b"".join(chunks)


class Replay:
    """Gives an application a body in one piece, then the client's further events.

    While the cloud answers, the middleware itself waits for these events, to end the call when the
    client disconnects. If the cloud does not answer, the application continues the same wait.
    """

    def __init__(self, receive: Receive) -> None:
        self._body: bytes | None = None
        self._receive = receive
        self._waiting: asyncio.Future[Event] | None = None

    def put(self, body: bytes) -> None:
        """Give the application this body first."""
        self._body = body

    async def __call__(self) -> Event:
        """Return the next event."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await self.after_body()

    async def after_body(self) -> Event:
        """Return the first event after the body; may be cancelled and called again."""
        if self._waiting is None:
            self._waiting = asyncio.ensure_future(self._receive())
        event = await asyncio.shield(self._waiting)
        self._waiting = None
        return event

    def close(self) -> None:
        """Stop waiting for the client."""
        if self._waiting is not None:
            self._waiting.cancel()


def with_length(scope: Scope, length: int) -> Scope:
    """Return the scope for a body of another length, in one piece."""
    kept = [
        (name, value)
        for name, value in scope["headers"]
        if name.lower() not in (b"content-length", b"transfer-encoding")
    ]
    return {**scope, "headers": [*kept, (b"content-length", str(length).encode())]}


def with_headers(send: Send, headers: Headers) -> Send:
    """Return a `send` that sets headers of the response."""
    names = {name for name, _ in headers}

    async def sending(event: Event) -> None:
        if event["type"] == "http.response.start":
            kept = [each for each in event.get("headers", ()) if each[0].lower() not in names]
            event = {**event, "headers": [*kept, *headers]}
        await send(event)

    return sending


async def refuse(send: Send, status: int, message: str) -> None:
    """Answer with an error in the form of OpenAI's API."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": status}
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
