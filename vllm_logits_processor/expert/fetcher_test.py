"""A server of checks that sends too much, or too slowly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vllm_logits_processor.expert.fetcher import Fetcher
from vllm_logits_processor.testing.threaded_server import serving_in_thread


@contextmanager
def sending(*, status: int, part: bytes, pause_s: float = 0.0) -> Iterator[tuple[str, list[int]]]:
    """Run a server whose replies never end; yields its URL and the bytes that it got rid of."""
    sent = [0]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(part)
                    sent[0] += len(part)
                    time.sleep(pause_s)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with serving_in_thread(server):
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", sent


def test_a_reply_without_end_is_not_read_to_it() -> None:
    with sending(status=200, part=b"x" * 65_536) as (url, _):
        said = Fetcher().get(url)
        assert Fetcher().body(url) is None
    assert said == "The expert's reply is larger than 1048576 bytes."


@pytest.mark.parametrize("status", [404, 503])
def test_the_body_of_an_error_is_not_read(status: int) -> None:
    with sending(status=status, part=b"x" * 65_536) as (url, sent):
        assert Fetcher().get(url) == (status, "")
    # What the buffers of both sides take.
    assert sent[0] < 16_777_216


def test_a_reply_that_drips_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_logits_processor.expert.fetcher._TIMEOUT_S", 0.5)
    with sending(status=200, part=b"x", pause_s=0.05) as (url, _):
        begun = time.monotonic()
        assert Fetcher().get(url) == "it did not answer in time"
    assert time.monotonic() - begun < 5
