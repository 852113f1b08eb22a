"""Checks whether an expert's server is this very server, or one whose expert is this server."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import httpcore

from floe_plugins.commands.doctor_lines import Line, green, red, unknown
from floe_plugins.connection_errors import CONNECTION_ERRORS
from floe_plugins.errors import FloeError
from vllm_logits_processor.config import ExpertConfig
from vllm_logits_processor.observe import server_of

_CHECK = "expert loop"
#: An unknown key, which Floe refuses with an error that names this known one.
_NONCE, _KNOWN = "floe_doctor", "floe_expert_model"
#: Seconds for which a server with Floe is tried. Its own breaker may be open, since this server
#: does not run yet: longer than the default cooldown.
_PATIENCE_S, _PAUSE_S, _TIMEOUT_S = 6.5, 0.5, 10.0


def loop_line(
    expert: ExpertConfig, url: str, *, host_url: str | None, patience_s: float = _PATIENCE_S
) -> Line:
    """Check for a loop through the expert's server at `url`.

    Parameters
    ----------
    host_url : str, optional
        This server's own URL, which is unknown otherwise.
    patience_s : float
        Seconds within which a server with Floe must call this one.
    """
    server = server_of(url)
    if host_url is not None and _addresses(url) & _addresses(host_url):
        advice = "name another server in expert.url: within its own step none can answer"
        return red(_CHECK, f"{server} is this very server, host_url", advice)
    reply = _post(expert, url, {_NONCE: "1"})
    if reply is None or reply[0] not in (HTTPStatus.OK, HTTPStatus.BAD_REQUEST):
        return unknown(_CHECK, f"{server} does not say if it runs Floe")
    if _KNOWN not in reply[1]:
        return green(_CHECK, f"{server} does not run Floe")
    found = f"{server} has Floe installed, which answers its calls unfused"
    if host_url is None:
        advice = "set host_url to find out if its expert is this server"
        return unknown(_CHECK, found, advice)
    try:
        with _listening(host_url) as asked:
            arrived = _ask_fused(expert, url, asked, patience_s)
    except OSError:
        advice = "look again while nothing listens at host_url, on the machine that it names"
        return unknown(_CHECK, f"{found}; whether its expert is this server was not seen", advice)
    if arrived:
        advice = "give one of them another expert: each would wait for the other's steps"
        return red(_CHECK, f"{server} runs Floe and asks host_url in turn", advice)
    return green(_CHECK, f"{found}; for {patience_s:g} s it did not ask host_url in turn")


def _addresses(url: str) -> set[tuple[str, int]]:
    """Return the addresses and the port to which a URL resolves."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError:
        return {(str(parts.hostname), port)}
    # Both loopback addresses are this machine.
    return {("127.0.0.1" if each[4][0] == "::1" else str(each[4][0]), port) for each in found}


def _post(expert: ExpertConfig, url: str, options: dict[str, str]) -> tuple[int, str] | None:
    """Request a completion with `vllm_xargs`; return status and body, None without a reply."""
    body: dict[str, Any] = {"model": expert.model, "prompt": [[1, 2, 3]], "max_tokens": 2}
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), _TIMEOUT_S)
    try:
        context = ssl.create_default_context(cafile=expert.ca_file)
        with httpcore.ConnectionPool(ssl_context=context) as pool:
            reply = pool.request(
                "POST",
                f"{url.rstrip('/')}/completions",
                headers=[(b"Content-Type", b"application/json"), *expert.api_key().headers()],
                content=json.dumps({**body, "vllm_xargs": options}).encode(),
                extensions={"timeout": timeouts},
            )
    except (*CONNECTION_ERRORS, FloeError, OSError):
        return None
    return reply.status, reply.content.decode("utf-8", errors="replace")


def _ask_fused(expert: ExpertConfig, url: str, asked: threading.Event, patience_s: float) -> bool:
    """Request fused answers from the server until a connection arrives or time is up."""
    end = time.monotonic() + patience_s
    while not asked.is_set() and time.monotonic() < end:
        _post(expert, url, {"floe": "fused"})
        asked.wait(_PAUSE_S)
    return asked.is_set()


@contextmanager
def _listening(url: str) -> Iterator[threading.Event]:
    """Listen at the address of a URL; the event is set when a connection arrives there.

    Raises
    ------
    OSError
        If the port is in use, or the address is not this machine's.
    """
    asked = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            # TLS or not: a client that connects while nothing is served here means this server.
            asked.set()

    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    server = ThreadingHTTPServer((str(parts.hostname), port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
