"""Plain HTTP requests to the expert's servers, for checks beside the calls for tokens."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from floe_plugins.config import ApiKey
from floe_plugins.connection_errors import CONNECTION_ERRORS, cause_of
from vllm_logits_processor.config import ExpertConfig
from vllm_logits_processor.expert.protocol import ExpertError
from vllm_logits_processor.expert.transport import Transport

#: Time limit in seconds for a whole exchange.
_TIMEOUT_S = 10.0
_FAILURES = (*CONNECTION_ERRORS, TimeoutError, OSError)


class Fetcher:
    """Sends GET and POST requests, and waits for the replies; not for use on an event loop.

    Parameters
    ----------
    config : ExpertConfig, optional
        Provides the API key and the certificates.

    Raises
    ------
    ApiKeyError
        If the file with the key cannot be read.
    OSError
        If the file with the certificates cannot be read.
    """

    def __init__(self, config: ExpertConfig | None = None) -> None:
        self._key = ApiKey() if config is None else config.api_key()
        self._key.headers()
        self._tls = ssl.create_default_context(cafile=None if config is None else config.ca_file)

    def get(self, url: str) -> tuple[int, str] | str:
        """Return status and body, or the cause of a failure; of most errors the body is empty."""
        return self._request("GET", url, None)

    def post(self, url: str, values: Mapping[str, Any]) -> tuple[int, str] | str:
        """Send JSON; return as :meth:`get` does."""
        return self._request("POST", url, json.dumps(values).encode())

    def body(self, url: str) -> str | None:
        """Return the body of a reply with status 200, else None."""
        reply = self.get(url)
        if isinstance(reply, str) or reply[0] != HTTPStatus.OK:
            return None
        return reply[1]

    def _request(self, method: str, url: str, content: bytes | None) -> tuple[int, str] | str:
        try:
            status, body = asyncio.run(self._exchange(method, url, content))
        except ExpertError as error:
            return str(error)
        except _FAILURES as error:
            return cause_of(error, url=url)
        return status, body.decode("utf-8", errors="replace")

    async def _exchange(self, method: str, url: str, content: bytes | None) -> tuple[int, bytes]:
        transport = Transport(url, key=self._key, tls=self._tls)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                status, _, body = await transport.exchange(url, content, method=method)
        finally:
            await transport.close()
        return status, body
