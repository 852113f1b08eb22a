"""Clear requests are answered in the cloud, all others on the device."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from floe_plugins.gate import Policy, Profile
from floe_plugins.gate.settings import GateSettings
from floe_plugins.middleware.privacy_gate import PrivacyGate
from floe_plugins.testing.asgi import CHAT, MAIL, PRIVATE, Server, ask, user


class Cloud:
    """A cloud whose answer the test sets."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer = "json"
        self.closed = threading.Event()
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                cloud.headers.append(dict(self.headers))
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                cloud.seen.append({"path": self.path, **body})
                if cloud.answer == "late":
                    time.sleep(1.5)
                if cloud.answer in ("error", "refusal"):
                    self.send_error(503 if cloud.answer == "error" else 400)
                    return
                self.send_response(200)
                streams = cloud.answer in ("stream", "broken", "endless")
                kind = "text/event-stream" if streams else "application/json"
                self.send_header("Content-Type", kind)
                if not streams:
                    self.send_header("Content-Length", "13")
                    self.end_headers()
                    self.wfile.write(b'{"cloud": 42}')
                    return
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self._stream()

            def _stream(self) -> None:
                try:
                    for number in range(1_000 if cloud.answer == "endless" else 3):
                        piece = f"data: cloud {number}\n\n".encode()
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                        self.wfile.flush()
                        time.sleep(0.02)
                    if cloud.answer == "stream":
                        self.wfile.write(b"0\r\n\r\n")
                    else:
                        self.close_connection = True
                except OSError:
                    cloud.closed.set()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    made = Cloud()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join(timeout=5)


def edge(server: Server, cloud: Cloud, policy: str = "strict", **values: Any) -> PrivacyGate:
    section = {"url": cloud.url, "model": "llm", "first_byte_timeout_s": 10, **values}
    settings = GateSettings(
        profile=Profile.STRICT,
        detectors=("email", "card"),
        timeout_s=30,
        policy=Policy(policy),
        cloud=section,
    )
    return PrivacyGate(server, settings=settings)


def test_a_clear_request_is_answered_in_the_cloud(cloud: Cloud) -> None:
    server = Server()
    body = user("What is 2 + 2?", vllm_xargs={"floe_label": "x"})
    reply = ask(edge(server, cloud), body, headers=((b"authorization", b"Bearer mine"),))
    assert reply.from_cloud
    assert reply.verdict == "clear"
    assert reply.pieces == [b'{"cloud": 42}']
    assert server.bodies == []
    assert cloud.seen == [{"path": CHAT, **user("What is 2 + 2?", model="llm")}]
    assert "Authorization" not in cloud.headers[0]


@pytest.mark.parametrize(("path", "body"), PRIVATE.values(), ids=PRIVATE.keys())
def test_what_is_not_clear_never_reaches_the_cloud(
    path: str, body: dict[str, Any], cloud: Cloud
) -> None:
    server = Server()
    for policy in ("strict", "redact"):
        reply = ask(edge(server, cloud, policy), body, path)
        assert reply.status == 200
    assert MAIL not in json.dumps(cloud.seen)
    assert "4111" not in json.dumps(cloud.seen)
    assert len(server.bodies) + len(cloud.seen) == 2
    assert all(seen["vllm_xargs"]["floe"] == "host" for seen in server.bodies)


def test_what_redaction_leaves_is_answered_in_the_cloud(cloud: Cloud) -> None:
    server = Server()
    reply = ask(edge(server, cloud, "redact"), user(f"mail {MAIL}, please"))
    assert reply.from_cloud
    assert reply.verdict == "redacted"
    assert cloud.seen[0]["messages"][0]["content"] == "mail <EMAIL>, please"


def test_a_stream_is_passed_through_piece_by_piece(cloud: Cloud) -> None:
    cloud.answer = "stream"
    reply = ask(edge(Server(), cloud), user("hi", stream=True))
    assert reply.headers[b"content-type"] == b"text/event-stream"
    assert reply.pieces == [f"data: cloud {number}\n\n".encode() for number in range(3)]


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ("error", r"\(HTTP 503\)"),
        ("late", r"\(it did not answer in time\)"),
        ("down", r"\(nobody listens there|\(it "),
    ],
)
def test_a_cloud_that_does_not_answer_means_the_device_does(
    cloud: Cloud, caplog: pytest.LogCaptureFixture, answer: str, cause: str
) -> None:
    cloud.answer = answer
    if answer == "down":
        cloud.server.server_close()
    server = Server()
    gate = edge(server, cloud, first_byte_timeout_s=0.5)
    body = user("hi", stream=True, vllm_xargs={"floe": "fused"})
    started = time.monotonic()
    replies = [ask(gate, body) for _ in range(3)]
    assert time.monotonic() - started < 3
    assert all(reply.pieces == [b"data: 1\n\n", b"data: 2\n\n"] for reply in replies)
    assert not any(reply.from_cloud for reply in replies)
    assert server.bodies == [body] * 3
    # It gets no requests for a while.
    assert len(cloud.seen) <= 1
    assert re.search(cause, caplog.text)


def test_a_request_that_the_cloud_refuses_is_answered_here_and_harms_no_other(cloud: Cloud) -> None:
    gate = edge(Server(), cloud)
    cloud.answer = "refusal"
    assert not ask(gate, user("hi")).from_cloud
    cloud.answer = "json"
    assert ask(gate, user("hi")).from_cloud
    assert cloud.headers[0]["Host"] == cloud.url.removeprefix("http://").removesuffix("/v1")


def test_a_stream_that_breaks_off_ends_with_an_error(cloud: Cloud) -> None:
    cloud.answer = "broken"
    reply = ask(edge(Server(), cloud), user("hi", stream=True))
    assert reply.pieces[0] == b"data: cloud 0\n\n"
    assert b"broke off" in reply.pieces[-1]


def test_a_client_that_goes_ends_the_clouds_work(cloud: Cloud) -> None:
    cloud.answer = "endless"
    server = Server()
    ask(edge(server, cloud), user("hi", stream=True), gone_after_s=0.3)
    assert cloud.closed.wait(5)
    assert server.bodies == []


def test_who_has_no_key_of_the_server_does_not_use_its_cloud(cloud: Cloud) -> None:
    gate = edge(Server(key="right"), cloud)
    assert ask(gate, user("hi")).status == 401
    assert ask(gate, user("hi"), headers=((b"authorization", b"Bearer wrong"),)).status == 401
    assert cloud.seen == []
    assert ask(gate, user("hi"), headers=((b"authorization", b"Bearer right"),)).from_cloud


def test_a_client_may_keep_its_request_here(cloud: Cloud) -> None:
    server = Server()
    ask(edge(server, cloud), user("hi", vllm_xargs={"floe": "host"}))
    assert cloud.seen == []
    assert len(server.bodies) == 1


def test_a_key_that_cannot_be_read_means_the_device_answers(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    server = Server()
    reply = ask(edge(server, cloud, api_key_file=str(tmp_path / "key")), user("hi"))
    assert (reply.status, reply.from_cloud) == (200, False)
    assert (cloud.seen, len(server.bodies)) == ([], 1)


def test_the_cloud_gets_its_own_key(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("abc\n")
    gate = edge(Server(), cloud, api_key_file=str(tmp_path / "key"))
    ask(gate, user("hi"), headers=((b"authorization", b"Bearer mine"),))
    assert cloud.headers[0]["Authorization"] == "Bearer abc"
