"""A server that loads, restarts or is replaced by another kind, at one address."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from vllm_logits_processor.expert.dialects import known
from vllm_logits_processor.expert.dialects.detect import Detected
from vllm_logits_processor.expert.dialects.dialect import Expected
from vllm_logits_processor.expert.dialects.known import KnownServer
from vllm_logits_processor.expert.http import CompletionsExpert
from vllm_logits_processor.expert.protocol import ExpertError
from vllm_logits_processor.testing.fake_expert import completion, fake_expert
from vllm_logits_processor.testing.threaded_server import serving_in_thread
from vllm_logits_processor.testing.tokenizers import trained_vocabulary

VOCABULARY = trained_vocabulary("byte-level")
LETTER = VOCABULARY.encode(b" the")[0]
#: What a llama.cpp server is asked about itself.
PAGES = ["/lora-adapters", "/props", "/v1/models"]
NO_ENDS = np.empty(0, dtype=np.int32)


@dataclass
class Llama:
    """What a llama.cpp server has and was asked; integration_tests run the real one."""

    adapters: tuple[str, ...] = ("cluster-0", "cluster-1")
    #: The status of each route, 200 by default.
    statuses: dict[str, int] = field(default_factory=dict)
    pages: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    @property
    def chosen(self) -> list[str]:
        """The adapters that the last call switched on."""
        return [self.adapters[each["id"]] for each in self.bodies[-1]["lora"] if each["scale"]]


@contextmanager
def llama(state: Llama) -> Iterator[Llama]:
    """Run a server that ends as a process does: its connections end with it."""
    connections: list[socket.socket] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            connections.append(self.connection)

        def version_string(self) -> str:
            return "llama.cpp"

        def do_GET(self) -> None:
            state.pages.append(self.path)
            adapters = [
                {"id": place, "path": f"{name}.gguf"} for place, name in enumerate(state.adapters)
            ]
            said: Any = {
                "/v1/models": {"data": [{"id": "slm", "owned_by": "llamacpp"}]},
                "/lora-adapters": adapters,
                "/props": {"total_slots": 1, "default_generation_settings": {"n_ctx": 512}},
            }[self.path]
            self.say(said)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.bodies.append(body)
            row = {"id": LETTER, "top_logprobs": [{"id": LETTER, "logprob": -0.5}]}
            self.say({"index": 0, "tokens": [LETTER], "completion_probabilities": [row]})

        def say(self, said: Any) -> None:
            body = json.dumps(said).encode()
            self.send_response(state.statuses.get(self.path, 200))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", state.port), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    with serving_in_thread(server):
        yield state
        for each in connections:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def made(port: int, **values: Any) -> CompletionsExpert:
    return CompletionsExpert(
        url=f"http://127.0.0.1:{port}/v1",
        top_k=2,
        vocabulary=len(VOCABULARY),
        end_ids=NO_ENDS,
        tokenizer=VOCABULARY,
        **{"api": "auto", "model": "slm", "timeout_s": 5.0, **values},
    )


@contextmanager
def client_of(port: int, **values: Any) -> Iterator[CompletionsExpert]:
    client = made(port, **values)
    yield client
    client.close()


def ask(client: CompletionsExpert, model: str = "cluster-1") -> int:
    call = client.start([VOCABULARY.encode(b"a cat")], model=model)
    return int(call.result(timeout=10).continuations[0].tokens[0])


@pytest.fixture
def _asks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of tests restart sooner than any real one."""
    monkeypatch.setattr(known, "_SAME_S", 0.0)


@pytest.mark.parametrize(
    ("api", "route"),
    [
        ("auto", "/v1/models"),
        ("auto", "/lora-adapters"),
        ("auto", "/props"),
        ("llama.cpp", "/lora-adapters"),
        ("llama.cpp", "/props"),
    ],
)
def test_a_server_that_is_loading_is_asked_again(api: str, route: str) -> None:
    loading = Llama(statuses={route: 503})
    with llama(loading), client_of(loading.port, api=api) as client:
        for _ in range(2):
            with pytest.raises(ExpertError, match="still loading"):
                ask(client)
        assert loading.bodies == []
        loading.statuses.clear()
        assert ask(client) == LETTER
        assert loading.chosen == ["cluster-1"]
        assert client.context == 512


@pytest.mark.usefixtures("_asks_at_once")
def test_a_restart_while_nobody_calls_brings_new_adapters() -> None:
    first = Llama()
    with llama(first):
        client = made(first.port)
        assert ask(client) == LETTER
        assert first.chosen == ["cluster-1"]
    with llama(Llama(adapters=("cluster-1", "cluster-0"), port=first.port)) as second:
        assert ask(client) == LETTER
        assert second.chosen == ["cluster-1"]
    client.close()


@pytest.mark.usefixtures("_asks_at_once")
def test_another_kind_of_server_takes_the_place_while_nobody_calls() -> None:
    first = Llama()
    with llama(first):
        client = made(first.port)
        assert ask(client, "slm") == LETTER
    with fake_expert(lambda _: completion([{LETTER: -0.5}]), port=first.port) as second:
        assert ask(client, "slm") == LETTER
        assert len(second.requests) == 1
    client.close()


@pytest.mark.parametrize("status", [404, 500, 503])
def test_an_error_is_a_reason_to_ask_again(status: int) -> None:
    server = Llama()
    with llama(server), client_of(server.port) as client:
        ask(client)
        dialect = client.decided().result(timeout=10)[1]
        server.statuses["/completion"] = status
        with pytest.raises(ExpertError, match=f"HTTP {status}"):
            ask(client)
        server.statuses.clear()
        server.pages.clear()
        assert ask(client) == LETTER
        assert sorted(server.pages) == PAGES
        # Nothing has changed, so nothing was made anew.
        assert client.decided().result(timeout=10)[1] is dialect


def test_a_server_that_is_down_costs_no_new_dialect() -> None:
    first = Llama()
    with llama(first):
        client = made(first.port)
        ask(client)
        dialect = client.decided().result(timeout=10)[1]
    for _ in range(2):
        with pytest.raises(ExpertError, match="did not answer"):
            ask(client)
    with llama(Llama(port=first.port)):
        assert ask(client) == LETTER
        assert client.decided().result(timeout=10)[1] is dialect
    client.close()


def test_steps_ask_nothing_more() -> None:
    server = Llama()
    with llama(server), client_of(server.port) as client:
        for _ in range(5):
            ask(client)
        assert sorted(server.pages) == PAGES


def test_it_is_said_when_a_server_answers_first_and_after_an_error() -> None:
    server, times = Llama(statuses={"/lora-adapters": 503}), []
    with llama(server), client_of(server.port, on_reached=lambda: times.append(1)) as client:
        with pytest.raises(ExpertError, match="still loading"):
            ask(client)
        assert times == []
        server.statuses.clear()
        for _ in range(3):
            ask(client)
        assert len(times) == 1
        server.statuses["/completion"] = 500
        with pytest.raises(ExpertError, match="HTTP 500"):
            ask(client)
        server.statuses.clear()
        ask(client)
        assert len(times) == 2


def test_a_doubt_that_comes_up_while_a_server_is_asked_stays() -> None:
    asked = []

    async def ask_it(model: str) -> Detected:
        asked.append(model)
        if len(asked) == 1:
            server.doubt()
        return Detected(api="vllm", why="it says so itself")

    server = KnownServer(
        ask=ask_it,
        connected=lambda: True,
        server="x",
        api="auto",
        expected=Expected(top_k=1, vocabulary=10, end_ids=NO_ENDS),
        base=None,
    )

    async def calls() -> None:
        first, second, third = [await server.current("slm") for _ in range(3)]
        assert first is second is third

    asyncio.run(calls())
    assert len(asked) == 2
