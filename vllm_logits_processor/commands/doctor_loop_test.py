"""Fake servers that lead back to this one, with Floe's real error messages."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from floe_plugins.commands.doctor_lines import Status
from floe_plugins.errors import ConfigError
from vllm_logits_processor.commands.doctor_loop import loop_line
from vllm_logits_processor.config import ExpertConfig
from vllm_logits_processor.request_options import RequestOptions
from vllm_logits_processor.testing.threaded_server import serving_in_thread


@contextmanager
def server(*, floe: bool, asks: int | None = None) -> Iterator[str]:
    """Run a server, with or without Floe, that connects to the port `asks` for a fused request."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, said = 200, "{}"
            if floe:
                try:
                    options = RequestOptions.from_extra_args(body["vllm_xargs"])
                    if options.mode == "fused" and asks is not None:
                        socket.create_connection(("127.0.0.1", asks)).close()
                except ConfigError as error:
                    status, said = 400, str(error)
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving_in_thread(listening):
        yield f"http://127.0.0.1:{listening.server_address[1]}/v1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def expert(url: str) -> ExpertConfig:
    return ExpertConfig(url=url, model="slm", tokenizer="t")


def test_an_expert_that_is_this_very_server_is_red_under_any_name() -> None:
    for host in ("localhost", "127.0.0.1"):
        url = "http://127.0.0.1:8002/v1"
        line = loop_line(expert(url), url, host_url=f"http://{host}:8002/v1/")
        assert line.status is Status.RED
        assert "this very server" in line.found


def test_a_server_without_floe_is_green() -> None:
    with server(floe=False) as url:
        line = loop_line(expert(url), url, host_url=None)
    assert line.status is Status.GREEN
    assert line.found.endswith("does not run Floe")


def test_a_server_with_floe_whose_expert_is_this_one_is_red() -> None:
    port = free_port()
    with server(floe=True, asks=port) as url:
        line = loop_line(expert(url), url, host_url=f"http://127.0.0.1:{port}/v1")
        assert line.status is Status.RED
        assert "asks host_url in turn" in line.found
        assert loop_line(expert(url), url, host_url=None).status is Status.UNKNOWN


def test_a_server_with_floe_and_another_expert_is_green() -> None:
    with server(floe=True) as url:
        host = f"http://127.0.0.1:{free_port()}/v1"
        line = loop_line(expert(url), url, host_url=host, patience_s=0.2)
    assert line.status is Status.GREEN
    assert "did not ask host_url" in line.found


def test_what_cannot_be_seen_is_unknown() -> None:
    with server(floe=True) as url, server(floe=False) as host:
        line = loop_line(expert(url), url, host_url=host, patience_s=0.2)
        assert line.status is Status.UNKNOWN
        assert "while nothing listens" in line.advice
    assert loop_line(expert(url), url, host_url=None).status is Status.UNKNOWN
