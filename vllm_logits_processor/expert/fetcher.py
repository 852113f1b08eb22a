"""Plain HTTP requests to the expert's servers, for checks beside the calls for tokens."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import httpcore

from floe_plugins.connection_errors import CONNECTION_ERRORS, cause_of
from vllm_logits_processor.config import ExpertConfig

_TIMEOUT_S = 10.0
_FAILURES = (*CONNECTION_ERRORS, OSError)


class Fetcher:
    """Sends GET and POST requests; ignores the proxy settings of the environment.

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
        self._headers: list[tuple[bytes, bytes]] = []
        ca_file = None
        if config is not None:
            self._headers = config.api_key().headers()
            ca_file = config.ca_file
        self._tls = ssl.create_default_context(cafile=ca_file)

    def get(self, url: str) -> tuple[int, str] | str:
        """Return status and body, or the cause of a failure."""
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
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), _TIMEOUT_S)
        kind = [(b"Content-Type", b"application/json")] if content is not None else []
        try:
            with httpcore.ConnectionPool(ssl_context=self._tls) as pool:
                reply = pool.request(
                    method,
                    url,
                    headers=[*self._headers, *kind],
                    content=content,
                    extensions={"timeout": timeouts},
                )
        except _FAILURES as error:
            return cause_of(error, url=url)
        return reply.status, reply.content.decode("utf-8", errors="replace")
