"""Which dialect a server is asked in: real servers are asked in integration_tests/serving."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vllm_logits_processor.expert.dialects.detect import Detected, Fetch, Reply, detect
from vllm_logits_processor.expert.http import CompletionsExpert
from vllm_logits_processor.expert.protocol import ExpertError, NoSuchModelError
from vllm_logits_processor.testing.fake_expert import FakeExpert, completion, fake_expert
from vllm_logits_processor.testing.tokenizers import trained_vocabulary

VOCABULARY = trained_vocabulary("byte-level")
LETTER = VOCABULARY.encode(b" the")[0]


def by_ids(body: dict[str, Any]) -> bytes:
    return completion(*([[{LETTER: -0.5}]] * len(body["prompt"])))


def by_spelling(body: dict[str, Any]) -> bytes:
    del body
    logprobs = {"tokens": [" the"], "top_logprobs": [{" the": -0.5}]}
    return json.dumps({"choices": [{"index": 0, "logprobs": logprobs}]}).encode()


@pytest.fixture
def server() -> Iterator[FakeExpert]:
    with fake_expert(by_ids) as state:
        yield state


def client_of(server: FakeExpert, **values: Any) -> CompletionsExpert:
    return CompletionsExpert(
        url=server.url,
        top_k=2,
        vocabulary=len(VOCABULARY),
        end_ids=np.empty(0, dtype=np.int32),
        tokenizer=VOCABULARY,
        **{"api": "auto", "timeout_s": 5.0, **values},
    )


def own(client: CompletionsExpert) -> list[int]:
    call = client.start([VOCABULARY.encode(b"a cat")], model="slm").result(timeout=10)
    return [int(token) for token in call.continuations[0].tokens]


def test_a_server_that_says_it_is_vllm_is_not_asked_for_a_token(server: FakeExpert) -> None:
    client = client_of(server, model="slm")
    assert client.decided().result(timeout=10)[0] == Detected(api="vllm", why="it says so itself")
    assert server.requests == []
    assert own(client) == [LETTER]
    client.close()


def test_a_server_that_does_not_say_is_told_by_its_tokens(server: FakeExpert) -> None:
    server.owned_by = ""
    client = client_of(server)
    assert own(client) == own(client) == [LETTER]
    # One question, and two calls.
    assert [len(each["prompt"]) for each in server.requests] == [1, 1, 1]
    assert client.decided().result(timeout=10)[0].api == "vllm"
    client.close()


@pytest.mark.parametrize("owner", ["", "openai", "llamacpp"])
def test_a_server_that_gives_text_is_asked_by_text(server: FakeExpert, owner: str) -> None:
    server.owned_by, server.answer = owner, by_spelling
    client = client_of(server)
    assert own(client) == [LETTER]
    assert server.requests[-1]["prompt"] == "a cat"
    assert not client.scores
    client.close()


def test_a_server_that_refuses_token_ids_is_asked_by_text(server: FakeExpert) -> None:
    server.owned_by, server.refuses, server.answer = "", "return_tokens_as_token_ids", by_spelling
    client = client_of(server)
    assert own(client) == [LETTER]
    client.close()


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (401, b"", ExpertError, "HTTP 401"),
        (404, b"", NoSuchModelError, "HTTP 404"),
        (502, b"<html>Bad gateway</html>", ExpertError, "HTTP 502"),
        (200, b"<html>Sign in</html>", ExpertError, "not a completion"),
        (200, b"[" * 60_000, ExpertError, "not a completion"),
    ],
)
def test_a_page_of_something_else_decides_nothing(
    server: FakeExpert, status: int, body: bytes, kind: type[ExpertError], reason: str
) -> None:
    server.owned_by, server.status, server.answer = "", status, lambda _: body
    client = client_of(server)
    with pytest.raises(kind, match=reason):
        own(client)
    server.status, server.answer = 200, by_ids
    assert own(client) == [LETTER]
    client.close()


def test_a_server_that_starts_after_its_client_is_recognised_then(
    server: FakeExpert, caplog: pytest.LogCaptureFixture
) -> None:
    server.refuses_connections = True
    client = client_of(server, model="slm")
    with pytest.raises(ExpertError, match="did not answer"):
        own(client)
    server.refuses_connections = False
    with caplog.at_level(logging.INFO):
        assert own(client) == [LETTER]
    assert caplog.text.count("is asked as vllm (it says so itself).") == 1
    client.close()


def test_another_server_at_the_same_place_is_recognised() -> None:
    with fake_expert(by_ids) as first:
        first.closes = True
        client = client_of(first)
        assert own(client) == [LETTER]
        port = int(first.url.removesuffix("/v1").rpartition(":")[2])
    with pytest.raises(ExpertError, match="did not answer"):
        own(client)
    with fake_expert(by_spelling, port=port) as second:
        second.owned_by = "someone"
        assert own(client) == [LETTER]
        assert second.requests[-1]["prompt"] == "a cat"
    client.close()


def test_text_that_is_no_text_is_not_sent(server: FakeExpert) -> None:
    client = client_of(server, api="openai-completions")
    half = VOCABULARY.encode("the 🙂".encode()[:-1])
    reply = client.start([half], model="slm").result(timeout=10)
    assert (reply.sent_bytes, reply.received_bytes, server.requests) == (0, 0, [])
    assert len(reply.continuations) == 1
    assert not len(reply.continuations[0].tokens)
    client.close()


async def _llama_cpp(method: str, url: str, values: Mapping[str, Any] | None) -> Reply:
    assert (method, values) == ("GET", None)
    adapters = b'[{"id": 0, "path": "a/one.gguf", "scale": 0.0}]'
    props = b'{"total_slots": 4, "default_generation_settings": {"n_ctx": 512}}'
    body = {
        "http://x/v1/models": b"{}",
        "http://x/lora-adapters": adapters,
        "http://x/props": props,
    }[url]
    return Reply(status=200, server="llama.cpp", body=body)


@pytest.mark.parametrize(
    ("api", "why"), [("auto", "it says so itself"), ("llama.cpp", "as configured")]
)
def test_llama_cpp_is_known_by_its_header_and_asked_for_its_adapters(api: str, why: str) -> None:
    found = asyncio.run(detect(_llama_cpp, "http://x/v1", api=api, model="slm"))
    assert (found.api, found.why) == ("llama.cpp", why)
    assert found.adapters["one"] == 0
    assert found.context == 512


def answering(statuses: Mapping[str, int]) -> Fetch:
    """Return a llama.cpp server that answers its routes with these statuses."""

    async def fetch(method: str, url: str, values: Mapping[str, Any] | None) -> Reply:
        said = await _llama_cpp(method, url, values)
        status = statuses.get(url.removeprefix("http://x"), 200)
        return replace(said, status=status, body=said.body if status == 200 else b"")

    return fetch


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_proxy_that_lacks_the_routes_of_llama_cpp_leaves_text(status: int) -> None:
    fetch = answering({"/lora-adapters": status})
    found = asyncio.run(detect(fetch, "http://x/v1", api="auto", model="slm"))
    assert found.api == "openai-completions"
    found = asyncio.run(detect(fetch, "http://x/v1", api="llama.cpp", model="slm"))
    assert (found.api, found.adapters) == ("llama.cpp", {})


@pytest.mark.parametrize("api", ["auto", "llama.cpp"])
@pytest.mark.parametrize(
    ("status", "reason"),
    [(503, "still loading"), (401, "HTTP 401"), (429, "HTTP 429"), (500, "HTTP 500")],
)
def test_any_other_status_of_a_route_decides_nothing(api: str, status: int, reason: str) -> None:
    for route in ("/lora-adapters", "/props"):
        with pytest.raises(ExpertError, match=reason):
            asyncio.run(detect(answering({route: status}), "http://x/v1", api=api, model="slm"))


def test_vllm_says_how_long_a_text_may_be() -> None:
    async def fetch(method: str, url: str, values: Mapping[str, Any] | None) -> Reply:
        models = [
            {"id": "slm", "owned_by": "vllm", "max_model_len": 2048},
            {"id": "cluster-0", "owned_by": "vllm", "max_model_len": None},
        ]
        return Reply(status=200, server="uvicorn", body=json.dumps({"data": models}).encode())

    assert asyncio.run(detect(fetch, "http://x/v1", api="auto", model="slm")).context == 2048
