"""A real server as an expert whose tokenizer the host does not know: text in, spellings out."""

from __future__ import annotations

import math
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import torch

from floe_plugins.models import resolve
from integration_tests.harness.llama_servers import slm_server
from integration_tests.harness.vllm_servers import Server
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.build import build_engine
from vllm_logits_processor.commands.doctor_serving import serving_lines
from vllm_logits_processor.config import ExpertConfig, FloeConfig
from vllm_logits_processor.engine import FusionEngine
from vllm_logits_processor.request_options import RequestOptions
from vllm_logits_processor.stream import Stream

pytestmark = pytest.mark.timeout(300)

#: The host's tokenizer.
HOST = "embedded:smollm2-135m-instruct"
COLUMNS = 49_152


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with slm_server(HOST, name="slm", logs=tmp_path_factory.mktemp("llama")) as running:
        yield running


def config_of(server: Server) -> FloeConfig:
    expert = ExpertConfig(
        url=server.url,
        model="slm",
        api="openai-completions",
        tokenizer="unknown",
        trusted=True,
    )
    return FloeConfig(expert=expert, router="expert", deadline_ms=60_000, first_deadline_ms=60_000)


@pytest.fixture(scope="module")
def engine(server: Server) -> Iterator[FusionEngine]:
    built = build_engine(
        config_of(server),
        host_tokenizer=resolve(HOST),
        host_vocabulary=COLUMNS,
        host_model="llm",
    )
    yield built
    built.close()


@pytest.fixture(scope="module")
def host() -> ByteVocabulary:
    return ByteVocabulary.from_pretrained(resolve(HOST), name=HOST)


def stepped(engine: FusionEngine, stream: Stream) -> torch.Tensor:
    """Run a step of a host without an opinion; return the fused probabilities."""
    logits = torch.zeros(1, COLUMNS)
    engine.begin_step([stream])
    engine.decide(logits, {0: stream}).write(logits)
    return torch.softmax(logits[0], dim=-1)


def new_stream(engine: FusionEngine, host: ByteVocabulary, text: str) -> Stream:
    stream = engine.new_stream(host.encode(text.encode()), [], RequestOptions(mode="fused"))
    assert stream is not None
    return stream


@pytest.mark.parametrize("text", ["The capital of France is", "Zürich 你好. Water boils at a"])
def test_what_it_spells_is_what_the_host_is_given(
    server: Server, engine: FusionEngine, host: ByteVocabulary, text: str
) -> None:
    body = {"model": "slm", "prompt": text, "max_tokens": 1, "logprobs": 20, "temperature": 0.0}
    said = httpx.post(f"{server.url}/completions", json=body, timeout=60).json()
    (step,) = said["choices"][0]["logprobs"]["content"]
    best = max(step["top_logprobs"], key=lambda each: each["logprob"])
    stream = new_stream(engine, host, text)
    fused = stepped(engine, stream)
    assert stream.summary.tokens == {"fused": 1}
    begin, end = host.beginning_with(bytes(best["bytes"]))
    named = torch.from_numpy(host.by_bytes[begin:end].astype(np.int64))
    # Longer spellings of the reply have a part of these tokens, and more of the probability.
    assert float(fused[named].sum()) >= math.exp(best["logprob"]) - 0.02
    assert float(fused.sum()) == pytest.approx(1.0, abs=1e-3)


def test_inside_a_character_it_is_not_asked(engine: FusionEngine, host: ByteVocabulary) -> None:
    stream = new_stream(engine, host, "They met in a small caf")
    for byte in "é".encode():
        stream.output_ids += host.encode(bytes([byte]))
        stepped(engine, stream)
    assert host.decode(stream.output_ids) == "é".encode()
    assert stream.summary.tokens == {"mid-character": 1, "fused": 1}


def test_doctor_says_which_way_it_is_and_what_is_lost(server: Server) -> None:
    values = config_of(server).model_dump(exclude_unset=True)
    values["expert"] = config_of(server).expert.model_dump(exclude_unset=True)
    lines = {line.check: line for line in serving_lines(values, host=None)}
    found = lines["expert api"].found
    assert found.startswith("openai-completions (as configured): its tokenizer is not known")
    assert "expert tokenizer" not in lines
    assert not lines["expert latency"].advice
    assert "without the space" not in lines["expert K"].found
