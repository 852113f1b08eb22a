"""Plain GET requests of `floe-llm doctor`, with the credentials of the configuration."""

from __future__ import annotations

import ssl
from http import HTTPStatus

import httpcore

from floe_plugins.connection_errors import CONNECTION_ERRORS
from vllm_logits_processor.config_expert import ExpertConfig

_TIMEOUT_S = 10.0
_FAILURES = (*CONNECTION_ERRORS, OSError)


class Fetcher:
    """Fetches pages; the proxy settings of the environment are not for these servers.

    Parameters
    ----------
    config : ExpertConfig, optional
        Whose API key and certificates to use.
    """

    def __init__(self, config: ExpertConfig | None = None) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        ca_file = None
        if config is not None:
            self._headers = config.api_key().headers()
            ca_file = config.ca_file
        self._tls = ssl.create_default_context(cafile=ca_file)

    def get(self, url: str) -> tuple[int, str] | str:
        """Return status and body, or the type of what went wrong."""
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), _TIMEOUT_S)
        try:
            with httpcore.ConnectionPool(ssl_context=self._tls) as pool:
                reply = pool.request(
                    "GET", url, headers=self._headers, extensions={"timeout": timeouts}
                )
        except _FAILURES as error:
            return type(error).__name__
        return reply.status, reply.content.decode("utf-8", errors="replace")

    def body(self, url: str) -> str | None:
        """Return the body of a reply with status 200, else None."""
        reply = self.get(url)
        if isinstance(reply, str) or reply[0] != HTTPStatus.OK:
            return None
        return reply[1]
