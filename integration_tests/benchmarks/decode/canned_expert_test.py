import time
from collections.abc import Iterator
from concurrent.futures import TimeoutError as NoAnswer
from pathlib import Path

import numpy as np
import pytest

from integration_tests.benchmarks.decode.canned_expert import NAME, LatencyExpert, latency_expert
from integration_tests.harness.tiny_models import TinyModels
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.expert.http import CompletionsExpert


@pytest.fixture(scope="module")
def canned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LatencyExpert]:
    with latency_expert(logs=tmp_path_factory.mktemp("canned"), core=0, top_k=5) as expert:
        yield expert


def client(url: str, vocabulary: int) -> CompletionsExpert:
    return CompletionsExpert(
        url=url, top_k=5, vocabulary=vocabulary, end_ids=np.empty(0, dtype=np.int32)
    )


@pytest.mark.timed
def test_answers_come_when_they_are_due_or_never(canned: LatencyExpert) -> None:
    asking = client(canned.url, 1000)
    canned.set_latency(0.2)
    # Hosts find out how it is asked before they ask.
    assert asking.decided().result(timeout=20)[0].api == "vllm"
    before = canned.asked()
    begun = time.monotonic()
    reply = asking.start([[1, 2], [3]], model=NAME, steps=3).result(timeout=20)
    assert time.monotonic() - begun >= 0.2
    assert canned.asked() == before + 1
    assert [each.top.token_ids.shape for each in reply.continuations] == [(3, 5), (3, 5)]
    canned.set_latency(None)
    with pytest.raises(NoAnswer):
        asking.start([[1]], model=NAME).result(timeout=0.5)
    asking.close()


@pytest.mark.timed
def test_latencies_scatter_around_their_median_and_come_again(canned: LatencyExpert) -> None:
    asking = client(canned.url, 1000)

    def seconds() -> list[float]:
        canned.set_latency(0.04, sigma=1.0, seed=3)
        found = []
        for _ in range(9):
            begun = time.monotonic()
            asking.start([[1]], model=NAME).result(timeout=20)
            found.append(time.monotonic() - begun)
        return found

    first, again = seconds(), seconds()
    assert max(first) > 3 * min(first)
    # The machine adds to a latency, and takes nothing from it.
    assert np.argmax(first) == np.argmax(again)
    canned.set_latency(0.04)
    begun = time.monotonic()
    asking.start([[1]], model=NAME).result(timeout=20)
    assert time.monotonic() - begun >= 0.04
    asking.close()


def test_a_real_model_answers_with_its_own_continuation(tiny: TinyModels, tmp_path: Path) -> None:
    vocabulary = ByteVocabulary.from_pretrained(tiny.host)
    with latency_expert(logs=tmp_path, core=0, top_k=5, model=tiny.host) as expert:
        asking = client(expert.url, len(vocabulary))
        prompt = vocabulary.encode(b"The cat sat")
        (said,) = asking.start([prompt], model=NAME, steps=4).result(timeout=60).continuations
        (next_said,) = (
            asking.start([[*prompt, int(said.tokens[0])]], model=NAME)
            .result(timeout=60)
            .continuations
        )
        asking.close()
    assert 1 <= len(said.tokens) <= 4
    assert said.tokens[1] == next_said.tokens[0]
    assert (np.argmax(said.top.logprobs, axis=1) == 0).all()


def test_one_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="did not start"),
        latency_expert(logs=tmp_path, core=0, model=str(tmp_path / "none")),
    ):
        pass
