"""Forwards clear requests to a cloud."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from floe_plugins.config import ApiKeyError
from floe_plugins.connection_errors import CONNECTION_ERRORS, cause_of
from floe_plugins.gate.settings import CloudSettings

if TYPE_CHECKING:
    import httpcore

logger = logging.getLogger(__name__)

_EVENTS = b"text/event-stream"
_OK = 200
_OVERLOADED = (408, 429)
_LARGEST_REPLY = 64 * 2**20


@dataclass
class CloudReply:
    """An answer that has begun.

    Attributes
    ----------
    status : int
        200.
    content_type : bytes
        The body's type.
    body : async iterator of bytes
        The pieces of the body; a single one if the answer is not streamed.
    """

    status: int
    content_type: bytes
    body: AsyncIterator[bytes]


class Cloud:
    """A client of the cloud."""

    def __init__(self, settings: CloudSettings) -> None:
        self._settings = settings
        self._key = settings.api_key()
        self._pool: httpcore.AsyncConnectionPool | None = None
        self._left_alone_until = 0.0

    @property
    def paused(self) -> bool:
        """True for `cooldown_s` after a failure."""
        return time.monotonic() < self._left_alone_until

    async def ask(self, path: str, body: Mapping[str, Any]) -> CloudReply | None:
        """Forward a request and return the answer once it has begun.

        Parameters
        ----------
        path : str
            The path of the request, such as ``/v1/completions``.
        body : mapping
            The request, or what redaction leaves of it.

        Returns
        -------
        CloudReply or None
            None if the cloud is down, late, or answers anything but a success.
        """
        try:
            request = self._request(path, body)
            # An answer that is not streamed begins when it is complete.
            streams = bool(body.get("stream"))
            settings = self._settings
            patience = settings.first_byte_timeout_s if streams else settings.read_timeout_s
            async with asyncio.timeout(patience):
                response = await self._connections().handle_async_request(request)
            return await self._begun(response)
        # The messages of these may name hosts and files, but hold nothing of the request.
        except (
            *CONNECTION_ERRORS,
            OSError,
            TimeoutError,
            ApiKeyError,
            _NoAnswerError,
        ) as error:
            # A refused request says nothing about others.
            if not (isinstance(error, _NoAnswerError) and error.refused):
                self._left_alone_until = time.monotonic() + self._settings.cooldown_s
            own = isinstance(error, _NoAnswerError | ApiKeyError)
            reason = str(error).rstrip(".") if own else cause_of(error, url=self._settings.url)
            logger.warning("The cloud does not answer (%s); the device does.", reason)
            return None

    def _request(self, path: str, body: Mapping[str, Any]) -> httpcore.Request:
        import httpcore

        settings = self._settings
        sent = dict(body)
        if settings.model is not None:
            sent["model"] = settings.model
        content = json.dumps(sent).encode()
        headers = [
            (b"Host", urlsplit(settings.url).netloc.rpartition("@")[2].encode()),
            (b"Content-Type", b"application/json"),
            (b"Content-Length", str(len(content)).encode()),
            (b"Accept-Encoding", b"identity"),
            *self._key.headers(),
        ]
        url = settings.url.rstrip("/") + path.removeprefix("/v1")
        timeouts = {
            "connect": settings.connect_timeout_s,
            "pool": settings.connect_timeout_s,
            "read": settings.read_timeout_s,
            "write": settings.read_timeout_s,
        }
        return httpcore.Request(
            "POST",
            url,
            headers=headers,
            content=content,
            extensions={"timeout": timeouts},
        )

    def _connections(self) -> httpcore.AsyncConnectionPool:
        import httpcore

        if self._pool is None:
            context = ssl.create_default_context(cafile=self._settings.ca_file)
            self._pool = httpcore.AsyncConnectionPool(ssl_context=context, max_connections=100)
        return self._pool

    async def _begun(self, response: httpcore.Response) -> CloudReply:
        """Wait for the first piece of a stream, or for the whole answer otherwise."""
        content_type = next(
            (value for name, value in response.headers if name.lower() == b"content-type"), b""
        )
        pieces = response.aiter_stream()
        try:
            if response.status != _OK:
                raise _NoAnswerError(
                    f"HTTP {response.status}",
                    refused=400 <= response.status < 500 and response.status not in _OVERLOADED,
                )
            if not content_type.startswith(_EVENTS):
                async with asyncio.timeout(self._settings.read_timeout_s):
                    whole = await _whole(pieces)
                await response.aclose()
                return CloudReply(response.status, content_type, _once(whole))
            async with asyncio.timeout(self._settings.first_byte_timeout_s):
                first = await anext(pieces, None)
            if first is None:
                raise _NoAnswerError("an empty stream")
        except BaseException:
            await response.aclose()
            raise
        return CloudReply(response.status, content_type, _rest(first, pieces, response))


class _NoAnswerError(Exception):
    """The cloud's answer cannot be passed on; the message says why.

    `refused` is true if the cloud refused the request.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


async def _whole(pieces: Any) -> bytes:
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > _LARGEST_REPLY:
            raise _NoAnswerError(f"more than {_LARGEST_REPLY} bytes")
    return bytes(body)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _rest(first: bytes, pieces: Any, response: httpcore.Response) -> AsyncIterator[bytes]:
    try:
        yield first
        async for piece in pieces:
            yield piece
    finally:
        await response.aclose()
