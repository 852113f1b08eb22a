"""Calls over HTTP to a server with sessions: nothing of an answer depends on them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from floe_plugins.config import ApiKey
from floe_plugins.middleware.asgi import App
from floe_plugins.middleware.expert_sessions import ExpertSessions, SessionSettings
from floe_plugins.middleware.privacy_gate import PrivacyGate
from floe_plugins.testing.asgi import SETTINGS
from floe_plugins.testing.completions import VOCABULARY, CompletionsServer, row_of
from vllm_logits_processor.alignment.unknown import bytes_alone
from vllm_logits_processor.expert.http import CompletionsExpert
from vllm_logits_processor.expert.protocol import ExpertError, ExpertReply, NoSuchModelError

uvicorn = pytest.importorskip("uvicorn", reason="uvicorn, vLLM's server, is not installed")

PROMPT = [*range(300)]
#: More than any call by session in these tests, less than any whole text.
FEW = 200


class Served:
    """An application on a port; another one may take its place, as if the server had restarted."""

    def __init__(self) -> None:
        self.vllm = CompletionsServer()
        self.app: App = self.with_sessions()

    def with_sessions(self) -> App:
        return ExpertSessions(self.vllm, settings=SessionSettings())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


@pytest.fixture
def served() -> Iterator[tuple[Served, str]]:
    app = Served()
    config = uvicorn.Config(app, lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield app, f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join(timeout=10)
    listening.close()


def client_of(url: str, **values: Any) -> CompletionsExpert:
    ends = np.array([3, 4], dtype=np.int32)
    return CompletionsExpert(url=url, top_k=20, vocabulary=VOCABULARY, end_ids=ends, **values)


@pytest.fixture
def experts(served: tuple[Served, str]) -> Iterator[list[CompletionsExpert]]:
    """One that uses sessions, and one that does not."""
    both = [client_of(served[1]), client_of(served[1], sessions=False)]
    yield both
    for expert in both:
        expert.close()


def equal(one: ExpertReply, other: ExpertReply) -> bool:
    return all(
        ours.tokens.tolist() == theirs.tokens.tolist()
        and ours.top.token_ids.tolist() == theirs.top.token_ids.tolist()
        and ours.top.logprobs.tolist() == theirs.top.logprobs.tolist()
        for ours, theirs in zip(one.continuations, other.continuations, strict=True)
    )


def ask_both(
    experts: list[CompletionsExpert], *prompts: list[int], steps: int = 1
) -> tuple[int, int]:
    """Ask with and without sessions; return the bytes that went up."""
    short, whole = (
        expert.start(prompts, model="slm", steps=steps).result(timeout=10) for expert in experts
    )
    assert equal(short, whole)
    assert len(short.continuations) == len(prompts)
    return short.sent_bytes, whole.sent_bytes


def test_a_host_that_asks_who_is_there_sends_a_text_once(served: tuple[Served, str]) -> None:
    expert = client_of(served[1], api="auto", model="slm")
    try:
        assert expert.decided().result(timeout=10)[0].api == "vllm"
        assert expert.keeps_sessions
        first = expert.start([PROMPT], model="slm").result(timeout=10)
        # Four bytes for each token, and no second time.
        assert 4 * len(PROMPT) < first.sent_bytes < 4 * len(PROMPT) + FEW
        again = expert.start([[*PROMPT, 1]], model="slm").result(timeout=10)
        assert again.sent_bytes < FEW
    finally:
        expert.close()


def test_an_answer_is_the_same_with_and_without_sessions(
    served: tuple[Served, str], experts: list[CompletionsExpert]
) -> None:
    texts = [[*PROMPT], [7, *PROMPT]]
    # The first reply of the server announces them, the first call by session opens one.
    first, whole = ask_both(experts, *texts)
    assert first == whole
    ask_both(experts, *texts)
    for step in range(5):
        for text in texts:
            text.append(step)
        few, whole = ask_both(experts, *texts, texts[0][:-1], steps=3)
        assert few < FEW < whole
    assert [body["prompt"] for body in served[0].vllm.bodies[-2:]] == [[*texts, texts[0][:-1]]] * 2


def test_a_restart_with_or_without_sessions_loses_no_token(
    served: tuple[Served, str], experts: list[CompletionsExpert]
) -> None:
    app, _ = served
    text = [*PROMPT]
    for step in range(12):
        if step == 4:
            app.app = app.with_sessions()
        if step == 8:
            app.app = app.vllm
        text.append(step)
        sent, whole = ask_both(experts, text)
        # Before: the announcement and the opening. Then: the restarts.
        if step not in (0, 1, 4) and step < 8:
            assert sent < FEW < whole
        else:
            assert sent > FEW
        # The client left them alone after the first refusal.
        assert sent == whole or step < 8


def test_a_privacy_gate_in_front_is_no_obstacle(
    served: tuple[Served, str], experts: list[CompletionsExpert]
) -> None:
    app, _ = served
    app.app = PrivacyGate(app.with_sessions(), settings=SETTINGS)
    text = [*PROMPT]
    for step in range(4):
        text.append(step)
        sent, whole = ask_both(experts, text)
        assert sent == whole


def test_errors_of_the_server_are_those_of_any_call(served: tuple[Served, str]) -> None:
    app, url = served
    expert = client_of(url, api_key=ApiKey("right"))
    app.vllm.key = "right"
    for _ in range(2):
        expert.start([PROMPT], model="slm").result(timeout=10)
    with pytest.raises(NoSuchModelError, match="HTTP 404"):
        expert.start([PROMPT], model="absent").result(timeout=10)
    app.vllm.longest = 10
    with pytest.raises(ExpertError, match="HTTP 400"):
        expert.start([PROMPT], model="slm").result(timeout=10)
    app.vllm.longest, app.vllm.key = 1000, "changed"
    with pytest.raises(ExpertError, match="HTTP 401"):
        expert.start([PROMPT], model="slm").result(timeout=10)
    app.vllm.key = "right"
    assert expert.start([[*PROMPT, 1]], model="slm").result(timeout=10).sent_bytes < FEW
    expert.close()


def test_texts_never_go_through_a_session_of_ids(served: tuple[Served, str]) -> None:
    app, url = served
    expert = client_of(url, api="openai-completions", tokenizer=bytes_alone())
    texts = ["The cat sat", "The cat sat on"]
    for text in texts:
        reply = expert.start([[*text.encode()]], model="slm").result(timeout=10)
        ids, logprobs = row_of([*text.encode()], top_k=20)
        top = reply.continuations[0].top
        assert [each.data.decode() for each in top.spelled] == [f" {token}" for token in ids]
        assert top.logprobs[0].tolist() == pytest.approx(logprobs)
    assert [body["prompt"] for body in app.vllm.bodies] == texts
    expert.close()
