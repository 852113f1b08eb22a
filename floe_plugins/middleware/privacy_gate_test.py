from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import floe_plugins.middleware
from floe_plugins.errors import FloeError
from floe_plugins.gate.gate import VARIABLE
from floe_plugins.middleware.privacy_gate import PrivacyGate, configured
from floe_plugins.testing.asgi import CHAT, MAIL, PRIVATE, SETTINGS, Server, ask, user


@pytest.mark.parametrize(("path", "body"), PRIVATE.values(), ids=PRIVATE.keys())
@pytest.mark.parametrize("forged", [{}, {"vllm_xargs": {"floe": "fused", "floe_label": "x"}}])
def test_what_is_not_clear_stays_with_the_host(
    path: str, body: dict[str, Any], forged: dict[str, Any]
) -> None:
    server = Server()
    reply = ask(PrivacyGate(server, settings=SETTINGS), {**body, **forged}, path)
    assert reply.status == 200
    assert reply.verdict == "local"
    assert reply.headers[b"x-floe-why"]
    (seen,) = server.bodies
    assert seen["vllm_xargs"]["floe"] == "host"
    assert {key: value for key, value in seen.items() if key != "vllm_xargs"} == body


@pytest.mark.parametrize("mode", ["auto", "host", "fused", None])
def test_what_is_clear_is_left_as_it_is(mode: str | None) -> None:
    server = Server()
    extra = {} if mode is None else {"vllm_xargs": {"floe": mode}}
    body = user("What is 2 + 2?", **extra)
    reply = ask(PrivacyGate(server, settings=SETTINGS), body)
    assert reply.verdict == "clear"
    assert server.bodies == [body]
    assert reply.pieces == [b"data: 1\n\n", b"data: 2\n\n"]


def test_a_body_in_chunks_is_read_whole() -> None:
    server = Server()
    reply = ask(PrivacyGate(server, settings=SETTINGS), user(MAIL), chunk=3)
    assert reply.verdict == "local"
    assert reply.headers[b"x-floe-why"].startswith(b"EMAIL ")
    assert server.bodies[0]["vllm_xargs"] == {"floe": "host"}


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'"text"', b"", b"\xff\xfe", b"[" * 100_000, f'{{"prompt": {MAIL}'.encode()],
)
def test_what_is_no_json_object_is_refused_without_quoting_it(body: bytes) -> None:
    server = Server()
    reply = ask(PrivacyGate(server, settings=SETTINGS), body)
    assert reply.status == 400
    assert server.bodies == []
    assert MAIL.encode() not in b"".join(reply.pieces)


def test_a_body_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("floe_plugins.middleware.privacy_gate._LARGEST_BODY", 1000)
    server = Server()
    assert ask(PrivacyGate(server, settings=SETTINGS), user("x" * 2000), chunk=100).status == 413
    assert server.bodies == []


@pytest.mark.parametrize("path", ["/v1/embeddings", "/tokenize", "/v1/responses/r1/cancel"])
def test_other_routes_pass_untouched(path: str) -> None:
    server = Server()
    raw = b'{"input":   "joe.bloggs@example.org"}'
    reply = ask(PrivacyGate(server, settings=SETTINGS), raw, path)
    assert server.raw == [raw]
    assert reply.verdict == ""
    assert ask(PrivacyGate(server, settings=SETTINGS), b"", CHAT, method="GET").verdict == ""


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"policy": "lenient"}, "accepted are strict"),
        ({"detectors": ["absent"]}, "There is no detector 'absent'"),
        ({"plugins": ["absent_plugin"]}, "'absent_plugin'"),
        ({"cloud": {}}, "has no url"),
        ({"cloud": {"url": "ftp://x"}}, "cloud.url is 'ftp://x'"),
        ({"cloud": {"url": "http://x", "keys": 1}}, "has the key 'keys'"),
        ({"cloud": {"url": "http://x", "api_key_env": "ABSENT_KEY"}}, "'ABSENT_KEY'"),
        ({"cloud": {"url": "http://x", "cooldown_s": 0}}, "cooldown_s is 0"),
    ],
)
def test_a_wrong_configuration_shows_when_the_class_is_fetched(
    values: dict[str, Any], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gate.json").write_text(json.dumps(values))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gate.json"))
    configured.cache_clear()
    with pytest.raises(FloeError) as caught:
        _ = floe_plugins.middleware.PrivacyGate
    assert expected in str(caught.value)
    configured.cache_clear()


def test_the_class_is_fetched_as_vllm_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    configured.cache_clear()
    assert floe_plugins.middleware.PrivacyGate is PrivacyGate
    server = Server()
    assert ask(PrivacyGate(server), user(f"mail {MAIL}")).verdict == "local"
    with pytest.raises(AttributeError):
        _ = floe_plugins.middleware.absent
    configured.cache_clear()
