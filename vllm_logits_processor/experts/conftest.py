"""A server for tests: answers completions calls as a test wants: late, broken or well.

It stands for the faults that no real server produces on demand; that real servers answer is
tested in integration_tests.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], bytes]


def completion(*prompts: list[dict[int, float]]) -> bytes:
    """Return the body of a completions reply: per prompt, a (token id: logprob) row per step.

    The expert's own token of a step is the first of its row.
    """
    choices = [
        {
            "index": place,
            "text": "",
            "logprobs": {
                "tokens": [f"token_id:{next(iter(row), 0)}" for row in rows],
                "top_logprobs": [
                    {f"token_id:{token}": logprob for token, logprob in row.items()} for row in rows
                ],
            },
        }
        for place, rows in enumerate(prompts)
    ]
    return json.dumps({"choices": choices}).encode()


@dataclass
class FakeExpert:
    """What the server does, and what it was asked."""

    answer: Answer
    status: int = 200
    delay_s: float = 0.0
    closes: bool = False
    #: A field that the server does not know and answers with HTTP 400.
    refuses: str = ""
    #: Seconds between the bytes of a reply; and whether it ends in its middle.
    drips_s: float = 0.0
    breaks: bool = False
    #: Whether connections are reset before anything is said.
    refuses_connections: bool = False
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: set[tuple[str, int]] = field(default_factory=set)


@contextmanager
def fake_expert(
    answer: Answer, *, tls: ssl.SSLContext | None = None, port: int = 0
) -> Iterator[FakeExpert]:
    """Run a server on a loopback port, a free one if none is given; with TLS if a context is."""
    state = FakeExpert(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            if state.refuses_connections:
                self.close_connection = True
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                self.connection.close()
                return
            try:
                super().handle_one_request()
            except ConnectionResetError:
                self.close_connection = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append(body)
            state.headers.append(dict(self.headers))
            state.connections.add(self.client_address)
            time.sleep(state.delay_s)
            # Without a word, as servers close connections that were idle.
            self.close_connection = state.closes
            reply = state.answer(body)
            try:
                self.send_response(400 if state.refuses in body else state.status)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.write(reply)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def write(self, reply: bytes) -> None:
            if state.breaks:
                self.close_connection = True
                reply = reply[: len(reply) // 2]
            if not state.drips_s:
                self.wfile.write(reply)
                return
            for byte in reply:
                self.wfile.write(bytes([byte]))
                if state.drips_s:
                    time.sleep(state.drips_s)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    class Server(ThreadingHTTPServer):
        # The default of 5 makes the sixth of several calls at once wait for a second.
        request_queue_size = 64

    server = Server(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    state.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
