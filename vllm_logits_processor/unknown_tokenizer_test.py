"""A host and an expert whose tokenizer nobody knows: what is sent, and what comes of the reply."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from floe_plugins.commands.doctor_lines import Line
from floe_plugins.models import resolve
from vllm_logits_processor.build import build_engine
from vllm_logits_processor.commands.doctor_serving import serving_lines
from vllm_logits_processor.config import ExpertConfig, FloeConfig
from vllm_logits_processor.engine import FusionEngine
from vllm_logits_processor.request_options import RequestOptions
from vllm_logits_processor.stream import Stream
from vllm_logits_processor.testing.fake_expert import FakeExpert, fake_expert

HOST = "embedded:smollm2-135m-instruct"
SIZE = 49152
FUSED = RequestOptions(mode="fused")


def says_water(body: dict[str, Any]) -> bytes:
    """Continue every text with " water", by spelling alone."""
    texts = [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]
    row = {" water": math.log(0.9), "<|im_end|>": math.log(0.05)}
    logprobs = {"tokens": [" water"], "top_logprobs": [row]}
    choices = [{"index": place, "logprobs": logprobs} for place in range(len(texts))]
    return json.dumps({"choices": choices}).encode()


@pytest.fixture
def server() -> Iterator[FakeExpert]:
    with fake_expert(says_water) as state:
        yield state


@pytest.fixture
def engine(server: FakeExpert) -> Iterator[FusionEngine]:
    expert = ExpertConfig(
        url=server.url,
        model="slm",
        api="openai-completions",
        tokenizer="unknown",
        trusted=True,
        lookahead=4,
        context=500,
    )
    built = build_engine(
        FloeConfig(expert=expert, router="expert", deadline_ms=5000),
        host_tokenizer=resolve(HOST),
        host_vocabulary=SIZE,
        host_model="llm",
    )
    yield built
    built.close()


def stream_of(engine: FusionEngine, text: bytes) -> Stream:
    vocabulary = engine._pair.host
    stream = engine.new_stream(vocabulary.encode(text), [], FUSED)
    assert stream is not None
    return stream


def step(engine: FusionEngine, *streams: Stream) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, SIZE, generator=generator).repeat(len(streams), 1)
    engine.begin_step(streams)
    engine.decide(logits, dict(enumerate(streams))).write(logits)
    return torch.softmax(logits, dim=-1)


def test_the_text_is_sent_as_it_stands_and_the_reply_is_fused(
    engine: FusionEngine, server: FakeExpert
) -> None:
    stream = stream_of(engine, "Zürich lies by the".encode())
    vocabulary = stream.host
    after = step(engine, stream)[0].numpy()
    named = [
        token
        for token, data in enumerate(vocabulary.token_bytes)
        if data and data.startswith(b" water")
    ]
    assert after[named].sum() == pytest.approx(0.9, abs=0.01)
    stream.output_ids += vocabulary.encode(b" Wat")
    step(engine, stream)
    # No covers and no look-ahead: one text for each token, the same as the host's.
    assert [each["prompt"] for each in server.requests] == [
        "Zürich lies by the",
        "Zürich lies by the Wat",
    ]
    assert {each["max_tokens"] for each in server.requests} == {1}
    assert stream.summary.tokens["fused"] == 2
    assert "sessions" not in json.dumps(server.headers)


def test_inside_a_character_the_host_writes_alone(engine: FusionEngine, server: FakeExpert) -> None:
    stream = stream_of(engine, b"A bird:")
    first, *others = stream.host.encode(" 🦜".encode())
    assert others
    alone = torch.softmax(torch.randn(1, SIZE, generator=torch.Generator().manual_seed(0)), dim=-1)
    stream.output_ids.append(first)
    assert step(engine, stream)[0].numpy() == pytest.approx(alone[0].numpy())
    assert not server.requests
    assert dict(stream.summary.tokens) == {"mid-character": 1}
    stream.output_ids += others
    step(engine, stream)
    assert [each["prompt"] for each in server.requests] == ["A bird: 🦜"]
    assert stream.summary.tokens["fused"] == 1


def test_a_text_of_more_bytes_than_the_context_is_too_long(
    engine: FusionEngine, server: FakeExpert
) -> None:
    stream = stream_of(engine, b"word " * 100)
    step(engine, stream)
    assert not server.requests
    assert stream.summary.tokens["too-long"] == 1


def test_draft_rows_are_fused_each_with_its_own_text(
    engine: FusionEngine, server: FakeExpert
) -> None:
    stream = stream_of(engine, b"by the")
    draft = stream.host.encode(b" sea")
    (water,) = stream.host.encode(b" water")
    logits = torch.zeros(2, SIZE)
    logits[:, water] = 1.0
    engine.begin_step([stream])
    engine.decide(logits, {0: stream, 1: stream}, {1: draft}).write(logits)
    # A request a text, and nobody says which arrives first.
    texts = {each["prompt"] for each in server.requests}
    assert texts == {"by the", "by the sea"}
    assert len(server.requests) == 2
    assert logits.argmax(dim=-1).tolist() == [water, water]


def test_a_conversation_is_the_hosts_text(engine: FusionEngine, server: FakeExpert) -> None:
    vocabulary = engine._pair.host
    assert vocabulary.template is not None
    ids = vocabulary.template.backend.encode(
        vocabulary.template.rendered(["user"], answer=True), add_special_tokens=False
    ).ids
    stream = engine.new_stream(ids, [], FUSED)
    assert stream is not None
    step(engine, stream)
    (request,) = server.requests
    assert request["prompt"] == vocabulary.decode(ids).decode()
    assert "user\n" in request["prompt"]


def doctor_lines(server: FakeExpert) -> dict[str, Line]:
    expert = {
        "url": server.url,
        "model": "slm",
        "api": "openai-completions",
        "tokenizer": "unknown",
        "top_k": 2,
    }
    values = {"expert": expert, "deadline_ms": 5000}
    return {line.check: line for line in serving_lines(values, host=None)}


def test_doctor_says_what_is_lost(server: FakeExpert) -> None:
    lines = doctor_lines(server)
    assert "its tokenizer is not known" in lines["expert api"].found
    assert "by their spelling alone" in lines["tokenizers"].found
    assert "expert tokenizer" not in lines
    assert lines["expert K"].found == "of 2 logprobs a token, 1 could be told by their spelling"
    assert "64 bytes" in lines["expert latency"].found
    assert all(isinstance(each["prompt"], str | list) for each in server.requests)


def test_doctor_is_red_where_the_spaces_are_missing(server: FakeExpert) -> None:
    server.answer = lambda body: says_water(body).replace(b" water", b"water")
    line = doctor_lines(server)["expert K"]
    assert "without the space before a word" in line.found
    assert "expert.tokenizer" in line.advice
