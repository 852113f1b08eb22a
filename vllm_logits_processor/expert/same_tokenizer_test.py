"""The warning at start about an expert with another tokenizer; the start never waits for it.

The comparison itself is in `doctor_test`, and on real servers in integration_tests.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from tokenizers import Tokenizer

from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.config import ExpertConfig
from vllm_logits_processor.expert.build import build_expert
from vllm_logits_processor.expert.fetcher import Fetcher
from vllm_logits_processor.expert.protocol import ExpertError
from vllm_logits_processor.expert.same_tokenizer import TokenizerComparison, tokenizer_fault
from vllm_logits_processor.testing.fake_expert import completion
from vllm_logits_processor.testing.tokenizers import TRAINED, TRAINED_WORDS, vocabulary_of


@contextmanager
def tokenizing(
    tokenizer: Tokenizer, *, status: int = 200, delay: float = 0.0, port: int = 0
) -> Iterator[str]:
    """Stand in for a server with another tokenizer, which none of the tests' real servers has."""
    wait = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            values = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            wait.wait(delay)
            if self.path == "/v1/completions":
                body = completion([{1: -0.5}])
            else:
                ids = tokenizer.encode(values["content"], add_special_tokens=False).ids
                body = json.dumps({"tokens": ids}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        wait.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


ALL = tuple(TRAINED | TRAINED_WORDS)


@cache
def trained(kind: str) -> Tokenizer:
    """Train once: a second training on the same texts yields other ids."""
    return (TRAINED | TRAINED_WORDS)[kind](420)


@cache
def configured_as(kind: str) -> ByteVocabulary:
    return vocabulary_of(trained(kind), kind)


@pytest.mark.parametrize("theirs", ALL)
@pytest.mark.parametrize("configured", ALL)
def test_only_the_same_tokenizer_passes(theirs: str, configured: str) -> None:
    vocabulary = configured_as(configured)
    with tokenizing(trained(theirs)) as url:
        fault = tokenizer_fault(Fetcher(), url, model="slm", vocabulary=vocabulary)
    assert fault is not None
    assert (fault == "") == (theirs == configured)


def finish(before: set[threading.Thread]) -> None:
    """Wait for the comparisons that have begun since."""
    for thread in set(threading.enumerate()) - before:
        if thread.name == "floe-tokenizers":
            thread.join(timeout=10)


def config_of(url: str) -> ExpertConfig:
    return ExpertConfig(url=url, model="slm", tokenizer="models/slm", api="vllm")


def checked(url: str, vocabulary: ByteVocabulary) -> TokenizerComparison:
    """Compare as at start, and wait for the end."""
    before = set(threading.enumerate())
    comparison = TokenizerComparison(config_of(url), vocabulary)
    comparison.begin()
    finish(before)
    return comparison


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [line for line in caplog.records if line.name.startswith("vllm_logits_processor")]
    assert all(line.levelno == logging.WARNING for line in lines)
    return [line.getMessage() for line in lines]


def test_a_start_warns_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with tokenizing(trained("byte-level")) as url:
        checked(url, configured_as("unigram"))
    (line,) = [line for line in caplog.records if line.name.startswith("vllm_logits_processor")]
    assert line.levelno == logging.WARNING
    assert "another tokenizer than expert.tokenizer, 'models/slm': it makes [" in line.getMessage()
    assert "\n" not in line.getMessage()


def test_a_start_is_silent_where_they_are_the_same_or_nobody_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vocabulary = configured_as("byte-level")
    with tokenizing(trained("byte-level")) as url:
        checked(url, vocabulary)
    with tokenizing(trained("unigram"), status=404) as url:
        checked(url, vocabulary)
    assert not [line for line in caplog.records if line.name.startswith("vllm_logits_processor")]


def test_a_server_that_is_not_up_is_compared_when_it_first_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vocabulary = configured_as("unigram")
    with tokenizing(trained("byte-level"), status=503) as url:
        comparison = checked(url, vocabulary)
        before = set(threading.enumerate())
        pool = build_expert(
            config_of(url),
            vocabulary=len(vocabulary),
            end_ids=np.empty(0, dtype=np.int32),
            breaker_failures=100,
            breaker_cooldown_s=1.0,
            on_reached=comparison.reached,
        )
        with pytest.raises(ExpertError, match="HTTP 503"):
            pool.start([[1]], model="slm").result(timeout=10)
        comparison.reached(url)  # still nothing that could be compared
        finish(before)
    (line,) = said(caplog)
    assert "does not answer yet: its tokenizer is not compared" in line
    with tokenizing(trained("byte-level"), port=int(url[:-3].rpartition(":")[2])):
        for _ in range(3):
            assert pool.start([[1]], model="slm").result(timeout=10).continuations
            finish(before)
    pool.close()
    assert ["another tokenizer than" in line for line in said(caplog)] == [False, True]


def test_a_start_waits_for_no_answer() -> None:
    with tokenizing(trained("unigram"), delay=30) as url:
        TokenizerComparison(config_of(url), configured_as("unigram")).begin()
        names = [thread.name for thread in threading.enumerate()]
        assert "floe-tokenizers" in names
