"""Requests to one server over persistent connections; no reply is read without a limit."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

import httpcore

from floe_plugins.config import ApiKey, ApiKeyError
from floe_plugins.middleware.session_wire import UNKNOWN
from vllm_logits_processor.expert.protocol import ExpertError

Headers = Sequence[tuple[bytes, bytes]]

#: Most bytes of a page on which a server describes itself.
MOST_BYTES_OF_PAGE = 1_048_576


class Transport:
    """Sends requests to one server, on one event loop.

    One layer below httpx, which doubles the time of each call. The proxy settings of the
    environment do not apply to a server that the configuration names.

    Parameters
    ----------
    url : str
        Any URL of the server.
    key : ApiKey
        Read anew for each request.
    tls : ssl.SSLContext
        Verifies the server.
    """

    def __init__(self, url: str, *, key: ApiKey, tls: ssl.SSLContext) -> None:
        self.authority = urlsplit(url).netloc.rpartition("@")[2]
        self._key = key
        self._pool = httpcore.AsyncConnectionPool(ssl_context=tls, max_connections=None)

    @property
    def connected(self) -> bool:
        """Whether a connection to the server is open: it has not ended since that was made."""
        return any(not (each.is_closed() or each.has_expired()) for each in self._pool.connections)

    async def exchange(
        self,
        url: str,
        body: bytes | None,
        *,
        limit: int = MOST_BYTES_OF_PAGE,
        content_type: bytes = b"application/json",
        method: str = "POST",
    ) -> tuple[int, Headers, bytes]:
        """Return status, headers and body; of most errors the body is not read.

        Raises
        ------
        ExpertError
            If the reply is larger than `limit` bytes, or the file with the key cannot be read.
        Exception
            One of `CONNECTION_ERRORS` or an `OSError`.
        """
        headers = [(b"Host", self.authority.encode()), *self._authorization()]
        if body is not None:
            headers += [
                (b"Content-Type", content_type),
                (b"Content-Length", str(len(body)).encode()),
            ]
        received = bytearray()
        async with self._pool.stream(method, url, content=body, headers=headers) as response:
            # Another request follows one for an unknown session: the connection is kept for it.
            if response.status in (HTTPStatus.OK, UNKNOWN):
                async for part in response.aiter_stream():
                    received += part
                    if len(received) > limit:
                        raise ExpertError(f"The expert's reply is larger than {limit} bytes.")
        return response.status, response.headers, bytes(received)

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()

    def _authorization(self) -> list[tuple[bytes, bytes]]:
        try:
            return self._key.headers()
        except ApiKeyError as error:
            # Fails like any other call: the file may exist again for the next one.
            raise ExpertError(str(error)) from None
