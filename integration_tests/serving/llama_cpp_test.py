"""llama.cpp's real server as expert: in its own dialect, and as one that gives text."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from floe_plugins.models import resolve
from floe_plugins.routers import BUILT_IN_ROUTERS
from integration_tests.harness.llama_servers import counted, post, slm_server
from integration_tests.harness.vllm_servers import Server
from vllm_logits_processor.alignment.maps import build_maps
from vllm_logits_processor.alignment.prompt import Conversation
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.commands.doctor_serving import serving_lines
from vllm_logits_processor.config import ExpertConfig, FloeConfig
from vllm_logits_processor.engine import FusionEngine, Pair
from vllm_logits_processor.evidence import PromptScorer
from vllm_logits_processor.expert.build import build_expert
from vllm_logits_processor.expert.fetcher import Fetcher
from vllm_logits_processor.expert.http import CompletionsExpert
from vllm_logits_processor.expert.pool import ExpertPool
from vllm_logits_processor.expert.protocol import Continuation, ExpertError, NoSuchModelError
from vllm_logits_processor.expert.same_tokenizer import tokenizer_fault
from vllm_logits_processor.observe import FusionMetrics
from vllm_logits_processor.request_options import RequestOptions
from vllm_logits_processor.testing.tokenizers import trained_vocabulary

pytestmark = pytest.mark.timeout(300)

REFERENCE = "embedded:smollm2-135m-instruct"
TEXTS = [
    "The capital of France is",
    "def mean(values):\n    return",
    "Water boils at a temperature of",
    "Question: How many minutes are in three hours?\nAnswer:",
]
#: Within a character: the greedy token is the first half of one.
EMOJI = "你好 🙂🙂"
NO_ENDS = np.empty(0, dtype=np.int32)


@pytest.fixture(scope="module")
def vocabulary() -> ByteVocabulary:
    return ByteVocabulary.from_pretrained(resolve(REFERENCE), name=REFERENCE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    logs = tmp_path_factory.mktemp("llama")
    with slm_server(REFERENCE, name="slm", logs=logs, metrics=True) as running:
        yield running


def config_of(server: Server, **values: Any) -> ExpertConfig:
    expert = {"url": server.url, "model": "slm", "tokenizer": REFERENCE, "trusted": True}
    return ExpertConfig(**{**expert, **values})


def pool_of(config: ExpertConfig, vocabulary: ByteVocabulary) -> ExpertPool:
    return build_expert(
        config,
        vocabulary=len(vocabulary),
        end_ids=NO_ENDS,
        breaker_failures=5,
        breaker_cooldown_s=1.0,
        tokenizer=vocabulary,
    )


def asked(
    pool: ExpertPool, prompts: list[list[int]], *, model: str = "slm", steps: int = 1
) -> tuple[Continuation, ...]:
    return pool.start(prompts, model=model, steps=steps).result(timeout=120).continuations


@pytest.fixture(params=["auto", "openai-completions"])
def expert(
    request: pytest.FixtureRequest, server: Server, vocabulary: ByteVocabulary
) -> Iterator[ExpertPool]:
    pool = pool_of(config_of(server, api=request.param), vocabulary)
    yield pool
    pool.close()


@pytest.fixture
def native(server: Server, vocabulary: ByteVocabulary) -> Iterator[ExpertPool]:
    pool = pool_of(config_of(server), vocabulary)
    yield pool
    pool.close()


def test_it_answers_as_the_same_weights_in_process_do(
    expert: ExpertPool, vocabulary: ByteVocabulary
) -> None:
    prompts = [vocabulary.encode(text.encode()) for text in TEXTS]
    itself = build_expert(
        ExpertConfig(model=REFERENCE, dtype="float32"),
        vocabulary=len(vocabulary),
        end_ids=NO_ENDS,
        breaker_failures=5,
        breaker_cooldown_s=1.0,
    )
    wanted = asked(itself, prompts, model=REFERENCE)
    itself.close()
    for ours, theirs in zip(asked(expert, prompts), wanted, strict=True):
        assert ours.tokens.tolist() == theirs.tokens.tolist()
        by_id = dict(zip(theirs.top.token_ids[0], theirs.top.logprobs[0], strict=True))
        shared = [
            (logprob, by_id[token])
            for token, logprob in zip(ours.top.token_ids[0], ours.top.logprobs[0], strict=True)
            if token in by_id
        ]
        # Of 20 each, of which the last ones are close to each other. llama.cpp computes with
        # activations of 8 bits: single logprobs differ, another temperature would shift them all.
        assert len(shared) >= 15
        differences = np.array([our - their for our, their in shared])
        assert np.abs(differences).max() < 0.6
        assert np.abs(differences).mean() < 0.2
        masses = np.exp(ours.top.logprobs).sum(), np.exp(theirs.top.logprobs).sum()
        assert masses[0] == pytest.approx(masses[1], abs=0.03)


def test_logprobs_are_those_of_the_whole_vocabulary(
    native: ExpertPool, server: Server, vocabulary: ByteVocabulary
) -> None:
    prompt = vocabulary.encode(TEXTS[0].encode())
    everything = {"prompt": prompt, "n_predict": 1, "n_probs": len(vocabulary), "temperature": 0.0}
    (step,) = post(server, "completion", everything)["completion_probabilities"]
    logprobs = np.array([each["logprob"] for each in step["top_logprobs"]])
    assert len(logprobs) == len(vocabulary)
    assert np.exp(logprobs).sum() == pytest.approx(1, abs=1e-3)
    (ours,) = asked(native, [prompt])
    assert ours.top.logprobs[0] == pytest.approx(logprobs[:20], abs=0.02)


def test_looking_ahead_is_asking_step_by_step(
    expert: ExpertPool, vocabulary: ByteVocabulary
) -> None:
    prompt = vocabulary.encode(TEXTS[0].encode())
    (ahead,) = asked(expert, [prompt], steps=4)
    assert len(ahead.tokens) == 4
    for step, token in enumerate(ahead.tokens.tolist()):
        (single,) = asked(expert, [prompt])
        assert single.tokens.tolist() == [token]
        one, many = single.top.row(0), ahead.top.row(step)
        assert one.token_ids[0, 0] == many.token_ids[0, 0]
        assert one.logprobs[0, :5] == pytest.approx(many.logprobs[0, :5], abs=0.1)
        prompt = [*prompt, token]


@pytest.mark.parametrize("steps", [1, 3])
def test_a_next_token_that_is_half_a_character_has_its_distribution(
    native: ExpertPool, vocabulary: ByteVocabulary, steps: int
) -> None:
    """llama.cpp leaves such a token's row out, unless another token is sampled."""
    prompts = [vocabulary.encode(text.encode()) for text in (EMOJI, TEXTS[0])]
    half, whole = asked(native, prompts, steps=steps)
    spelled = vocabulary.token_bytes[half.tokens[0]]
    assert spelled is not None
    with pytest.raises(UnicodeDecodeError):
        spelled.decode()
    assert (len(half.tokens), len(whole.tokens)) == (1, steps)


def test_a_step_evaluates_one_token_for_each_text(
    server: Server, native: ExpertPool, vocabulary: ByteVocabulary
) -> None:
    texts = [vocabulary.encode((text + " " + "and so on, " * 20).encode()) for text in TEXTS]
    asked(native, texts)
    grown = [0]
    for token in vocabulary.encode(b" one two three"):
        texts = [[*text, token] for text in texts]
        before = counted(server, "prompt_tokens")
        # A text that ends inside a token is asked about at two places.
        asked(native, [*texts, texts[0][:-1]])
        grown.append(counted(server, "prompt_tokens") - before)
    # Nothing of a text is read again, except at the first further place.
    assert max(grown[2:]) <= len(texts) + 1
    assert min(grown[2:]) >= len(texts)


def test_the_server_is_recognised_and_what_it_lacks_is_said_once(
    server: Server,
    vocabulary: ByteVocabulary,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="vllm_logits_processor.expert"):
        pool = pool_of(config_of(server), vocabulary)
        for _ in range(2):
            asked(pool, [[504, 3575]])
    assert caplog.text.count("is asked as llama.cpp (it says so itself)") == 1
    assert caplog.text.count("scores no prompts") == 1
    assert not pool.scores
    scorer = PromptScorer(host=pool, host_model="llm", expert=pool)
    assert scorer.start(list(range(20)), [1, 2, 3], model="slm") is None
    pool.close()


def test_a_server_that_ends_is_one_sentence(tmp_path: Path, vocabulary: ByteVocabulary) -> None:
    with slm_server(REFERENCE, name="slm", logs=tmp_path) as first:
        config = config_of(first)
        pool = pool_of(config, vocabulary)
        assert asked(pool, [[504]])
    with pytest.raises(ExpertError, match="did not answer"):
        asked(pool, [[504]])
    pool.close()


def test_the_tokenizers_are_compared(server: Server, vocabulary: ByteVocabulary) -> None:
    fault = tokenizer_fault(Fetcher(), server.url, model="slm", vocabulary=vocabulary)
    assert fault == ""
    other = trained_vocabulary("byte-level")
    found = tokenizer_fault(Fetcher(), server.url, model="slm", vocabulary=other)
    assert found is not None
    assert "the configured one" in found


def test_a_smaller_tokenizer_than_the_models_is_one_sentence(server: Server) -> None:
    other = trained_vocabulary("byte-level")
    for api, reason in (("llama.cpp", "outside 0.."), ("openai-completions", None)):
        client = CompletionsExpert(
            url=server.url,
            top_k=20,
            vocabulary=len(other),
            end_ids=NO_ENDS,
            api=api,
            tokenizer=other,
        )
        call = client.start([other.encode(b"the cat sat")], model="slm")
        if reason is not None:
            with pytest.raises(ExpertError, match=reason):
                call.result(timeout=60)
        else:
            # Spellings that both know are meant alike, whatever their ids.
            assert call.result(timeout=60).continuations[0].top.logprobs.max() <= 0
        client.close()


def test_a_text_beyond_the_slots_context_is_one_sentence(
    native: ExpertPool, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ExpertError, match=r"^The expert answered HTTP 400\.$"):
        asked(native, [[504] * 1500])
    assert "--parallel" in caplog.text


def write_adapter(path: Path, *, seed: int) -> None:
    """Write a GGUF LoRA file of rank 4 on one projection, large enough to be noticed."""
    gguf = pytest.importorskip("gguf")
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    for name, shape in (("a", (4, 576)), ("b", (576, 4))):
        values = random.normal(scale=0.3, size=shape).astype(np.float32)
        writer.add_tensor(f"blk.29.attn_q.weight.lora_{name}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_request_names_an_adapter(tmp_path: Path, vocabulary: ByteVocabulary) -> None:
    run = tmp_path / "run"
    for cluster in range(2):
        write_adapter(run / f"cluster-{cluster}" / "adapter_model.gguf", seed=cluster)
    prompt = vocabulary.encode(TEXTS[3].encode())
    with slm_server(REFERENCE, name="slm", logs=tmp_path, adapters=run) as server:
        pool = pool_of(config_of(server), vocabulary)
        said = {
            name: asked(pool, [prompt], model=name)[0].top.logprobs[0]
            for name in ("slm", "cluster-0", "cluster-1")
        }
        again = asked(pool, [prompt])[0].top.logprobs[0]
        with pytest.raises(NoSuchModelError, match="its server has: cluster-0, cluster-1"):
            asked(pool, [prompt], model="cluster-7")
        pool.close()
    assert said["slm"] == pytest.approx(again, abs=1e-3)
    for first, second in (("slm", "cluster-0"), ("slm", "cluster-1"), ("cluster-0", "cluster-1")):
        assert np.abs(said[first] - said[second]).max() > 0.01


@pytest.mark.parametrize("api", ["llama.cpp", "openai-completions"])
def test_doctor_says_which_api_it_is(server: Server, api: str) -> None:
    chosen = {} if api == "llama.cpp" else {"api": api}
    values = {
        "expert": config_of(server, **chosen).model_dump(exclude_unset=True),
        "deadline_ms": 60_000,
        "first_deadline_ms": 60_000,
    }
    lines = {line.check: line for line in serving_lines(values, host=None)}
    assert lines["expert api"].found.startswith(f"{api} (")
    assert lines["expert K"].found == "20 logprobs a token, as configured"
    assert not lines["expert latency"].advice
    assert "max-logprobs" not in "".join(line.advice for line in lines.values())
    if api == "llama.cpp":
        assert lines["expert tokenizer"].found == f"the server tokenizes as {REFERENCE!r} does"
        assert lines["expert slots"].found.startswith("4 slots of 1024 tokens")


def test_an_engine_is_fused_with_it_and_goes_on_alone_without_it(
    tmp_path: Path, vocabulary: ByteVocabulary
) -> None:
    host = trained_vocabulary("byte-level")
    pair = Pair(
        host=host,
        expert=vocabulary,
        maps=build_maps(host, vocabulary),
        conversation=Conversation(host, vocabulary),
    )
    with slm_server(REFERENCE, name="slm", logs=tmp_path) as server:
        config = FloeConfig(
            expert=config_of(server, lookahead=3), deadline_ms=60_000, first_deadline_ms=60_000
        )
        engine = FusionEngine(
            config=config,
            pair=pair,
            expert=pool_of(config.expert, vocabulary),
            router=next(each for each in BUILT_IN_ROUTERS if each.name == "mean"),
            gate=None,
            metrics=FusionMetrics(port=None),
        )
        output: list[int] = []
        options = RequestOptions(mode="fused")
        stream = engine.new_stream(host.encode(b"the capital of france is"), output, options)
        assert stream is not None
        rows = [_step(engine, stream, len(host))]
        for _ in range(4):
            output.append(int(rows[-1].argmax()))
            rows.append(_step(engine, stream, len(host)))
        # The host's logits are equal: every difference within a row is the expert's.
        assert stream.summary.tokens["fused"] == 5
        assert all(float(row.max() - row.min()) > 1 for row in rows)
    engine.end_stream(stream)


def _step(engine: FusionEngine, stream: Any, width: int) -> torch.Tensor:
    logits = torch.full((1, width), -math.log(width))
    engine.begin_step([stream])
    engine.decide(logits, {0: stream}).write(logits)
    return logits[0]
