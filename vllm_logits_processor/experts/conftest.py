"""A server for tests: answers completions calls as a test wants: late, broken or well.

It stands for the faults that no real server produces on demand; that real servers answer is
tested in integration_tests.
"""

from __future__ import annotations

import json
import ssl
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
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: set[tuple[str, int]] = field(default_factory=set)


@contextmanager
def fake_expert(answer: Answer, *, tls: ssl.SSLContext | None = None) -> Iterator[FakeExpert]:
    """Run a server on a free loopback port, with TLS if a context is given."""
    state = FakeExpert(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

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
                self.send_response(state.status)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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
