"""Real models over HTTP: a host, an expert, and what may go wrong."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from floe_plugins.models import resolve
from integration_tests.harness.processes import free_port
from integration_tests.harness.slow_link import Traffic, slow_link
from integration_tests.harness.vllm_servers import Server, ServerSpec, running
from vllm_logits_processor.alignment.unknown import bytes_alone
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.config import ExpertConfig
from vllm_logits_processor.evidence import PromptScorer
from vllm_logits_processor.expert.build import build_expert
from vllm_logits_processor.expert.http import CompletionsExpert
from vllm_logits_processor.expert.protocol import NoSuchModelError

QUESTION = (
    "Question: Natalia sold clips to 48 of her friends in April, and then she sold half as many "
    "clips in May. How many clips did Natalia sell altogether?\nAnswer:"
)
PROMPTS = [
    QUESTION,
    "The capital of France is",
    "def mean(values):\n    return",
    "Water boils at a temperature of",
]
#: Sessions that the expert's server keeps: few, so that a test can make it lose them.
SESSIONS = 8
PUBLIC = "Question: How many minutes are in three hours?\nAnswer:"
PRIVATE = "Write a reply to joe.bloggs@example.org, whose card 4111 1111 1111 1111 was refused:"

#: Long enough for a busy machine: these tests check answers, not their speed.
PATIENT = {"deadline_ms": 20_000, "first_deadline_ms": 100_000}

pytestmark = pytest.mark.timeout(900)


@dataclass
class Cloud:
    """Gemma with the processor, and the trusted SmolLM2 server that it calls."""

    host: Server
    expert: Server
    trace: Path

    def lines(self, label: str) -> list[dict[str, Any]]:
        """Return the trace of the request with this label."""
        found = [json.loads(line) for line in self.trace.read_text().splitlines()]
        return [line for line in found if line["label"] == label]


def floe_section(expert_port: int, *, model: str, tokenizer: str, **values: Any) -> dict[str, Any]:
    expert = {"url": f"http://127.0.0.1:{expert_port}/v1", "model": model, "tokenizer": tokenizer}
    trusted = values.pop("trusted")
    return {"expert": {**expert, "trusted": trusted}, **PATIENT, **values}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("cloud")
    trace = folder / "trace.jsonl"
    smollm2, gemma = resolve("embedded:smollm2-135m-instruct"), resolve("embedded:gemma-3-270m")
    port = free_port()
    floe = floe_section(
        port,
        model="slm",
        tokenizer="embedded:smollm2-135m-instruct",
        trusted=True,
        trace_file=str(trace),
        breaker_cooldown_s=1.0,
    )
    slm = ServerSpec(
        model=smollm2,
        name="slm",
        core=0,
        port=port,
        arguments=("--middleware", "floe_plugins.middleware.ExpertSessions"),
        variables={"FLOE_SESSIONS": json.dumps({"sessions": SESSIONS})},
    )
    llm = ServerSpec(model=gemma, name="llm", core=1, floe=floe)
    with running(slm, llm, logs=folder) as (expert, host):
        yield Cloud(host=host, expert=expert, trace=trace)


def test_fused_differs_from_plain_and_says_so(cloud: Cloud) -> None:
    plain = cloud.host.complete(PROMPTS, vllm_xargs={"floe": "host"})
    asked = cloud.expert.prompts_served()
    assert asked == 0
    fused = cloud.host.complete(PROMPTS, vllm_xargs={"floe": "fused", "floe_label": "differs"})
    assert fused != plain
    lines = cloud.lines("differs")
    assert {line["outcome"] for line in lines} == {"fused"}
    # One prompt per token, and more where the text ends inside one of the expert's tokens.
    assert cloud.expert.prompts_served() >= len(lines)
    weights = [line["expert_weight"] for line in lines]
    assert 0.05 < sum(weights) / len(weights) < 0.95
    assert max(weights) - min(weights) > 0.05
    assert all(line["sent_bytes"] > 0 and line["received_bytes"] > 0 for line in lines)


def test_a_server_looks_ahead_and_scores_as_the_model_in_process_does(cloud: Cloud) -> None:
    reference = "embedded:smollm2-135m-instruct"
    vocabulary = ByteVocabulary.from_pretrained(resolve(reference))
    options: dict[str, Any] = {
        "vocabulary": len(vocabulary),
        "end_ids": np.empty(0, dtype=np.int32),
        "breaker_failures": 5,
        "breaker_cooldown_s": 1.0,
    }
    served = ExpertConfig(url=cloud.expert.url, model="slm", tokenizer=reference)
    experts = [
        build_expert(served, **options),
        build_expert(ExpertConfig(model=reference, dtype="float32"), **options),
    ]
    prompt = vocabulary.encode(QUESTION.encode())
    replies = [
        expert.start([prompt, prompt[:5]], model=model, steps=3).result(timeout=120)
        for expert, model in zip(experts, ("slm", reference), strict=True)
    ]
    for ours, theirs in zip(*(reply.continuations for reply in replies), strict=True):
        assert ours.tokens.tolist() == theirs.tokens.tolist()
        assert ours.top.logprobs[:, 0] == pytest.approx(theirs.top.logprobs[:, 0], abs=0.1)
    scores = [
        expert.score(prompt, model=model).result(timeout=120)
        for expert, model in zip(experts, ("slm", reference), strict=True)
    ]
    assert scores[0] == pytest.approx(scores[1], rel=0.02)
    for expert in experts:
        expert.close()


def test_a_server_asked_by_text_says_what_it_says_by_ids(cloud: Cloud) -> None:
    reference = "embedded:smollm2-135m-instruct"
    vocabulary = ByteVocabulary.from_pretrained(resolve(reference))
    prompts = [vocabulary.encode(text.encode()) for text in PROMPTS]
    said = []
    for api in ("auto", "openai-completions"):
        client = CompletionsExpert(
            url=cloud.expert.url,
            top_k=20,
            vocabulary=len(vocabulary),
            end_ids=np.empty(0, dtype=np.int32),
            api=api,
            model="slm",
            tokenizer=vocabulary,
        )
        said.append(client.start(prompts, model="slm", steps=3).result(timeout=120).continuations)
        if api == "auto":
            detected, _ = client.decided().result(timeout=60)
            assert (detected.api, detected.why) == ("vllm", "it says so itself")
        client.close()
    for by_ids, by_text in zip(*said, strict=True):
        assert by_text.tokens.tolist() == by_ids.tokens.tolist()
        for step in range(3):
            # Without tokens that are no text by themselves, and any order of equal ones.
            named = dict(zip(by_ids.top.token_ids[step], by_ids.top.logprobs[step], strict=True))
            known = by_text.top.token_ids[step] >= 0
            assert known.sum() >= 15
            for token, logprob in zip(
                by_text.top.token_ids[step][known], by_text.top.logprobs[step][known], strict=True
            ):
                assert logprob == pytest.approx(named[token], abs=0.01)


def test_without_the_tokenizer_the_same_is_said_by_spelling(cloud: Cloud) -> None:
    vocabulary = ByteVocabulary.from_pretrained(resolve("embedded:smollm2-135m-instruct"))
    by_ids, by_spelling = (
        CompletionsExpert(
            url=cloud.expert.url,
            top_k=20,
            vocabulary=len(tokenizer),
            end_ids=np.empty(0, dtype=np.int32),
            api=api,
            tokenizer=tokenizer,
        )
        for api, tokenizer in (("vllm", vocabulary), ("openai-completions", bytes_alone()))
    )
    for text in (*PROMPTS, *PROMPTS):
        # The server keeps sessions of token ids, of which these texts are none.
        asked = [
            expert.start([ids], model="slm").result(timeout=120).continuations[0].top
            for expert, ids in (
                (by_ids, vocabulary.encode(text.encode())),
                (by_spelling, [*text.encode()]),
            )
        ]
        named = {
            vocabulary.token_bytes[token]: logprob
            for token, logprob in zip(asked[0].token_ids[0], asked[0].logprobs[0], strict=True)
        }
        assert len(asked[1].spelled) >= 15
        for each in asked[1].spelled:
            assert asked[1].logprobs[0, each.place] == pytest.approx(named[each.data], abs=0.01)
    by_ids.close()
    by_spelling.close()


def test_both_servers_score_a_prompt(cloud: Cloud) -> None:
    """The host's worker sees no logits of a prompt: its own server scores it, without fusion."""
    host = ByteVocabulary.from_pretrained(resolve("embedded:gemma-3-270m"))
    expert = ByteVocabulary.from_pretrained(resolve("embedded:smollm2-135m-instruct"))
    ends = np.empty(0, dtype=np.int32)
    own = CompletionsExpert(
        url=cloud.host.url,
        top_k=1,
        vocabulary=len(host),
        end_ids=ends,
    )
    other = CompletionsExpert(url=cloud.expert.url, top_k=1, vocabulary=len(expert), end_ids=ends)
    data = QUESTION.encode()
    asked = cloud.expert.prompts_served()
    scores = PromptScorer(host=own, host_model="llm", expert=other).start(
        [*host.bos_ids, *host.encode(data)], expert.encode(data), model="slm"
    )
    assert scores is not None
    assert scores.host.result(timeout=120) < -50
    assert scores.expert.result(timeout=120) < -50
    evidence = scores.evidence()
    assert evidence is not None
    assert -1 < evidence < 1
    # The expert's own scoring is one prompt; the host's caused none.
    assert cloud.expert.prompts_served() == asked + 1
    own.close()
    other.close()


def test_greedy_fused_text_does_not_depend_on_the_batch(cloud: Cloud) -> None:
    together = cloud.host.complete(PROMPTS)
    alone = [cloud.host.complete(prompt)[0] for prompt in PROMPTS]
    assert together == alone


@pytest.mark.parametrize("value", ["yes", 1, ""])
def test_a_wrong_mode_answers_400(cloud: Cloud, value: object) -> None:
    body = {"prompt": "Hello", "max_tokens": 2, "vllm_xargs": {"floe": value}}
    reply = cloud.host.post("completions", body)
    assert reply.status_code == 400
    assert "auto, host, fused" in reply.text


def test_structured_output_keeps_its_mask(cloud: Cloud) -> None:
    choices = ["forty-eight", "seventy-two"]
    (text,) = cloud.host.complete(QUESTION, structured_outputs={"choice": choices}, max_tokens=12)
    assert text in choices


def test_streaming_and_stop_strings_work(cloud: Cloud) -> None:
    (text,) = cloud.host.complete("One, two, three, four,", stop=[" six"], max_tokens=16)
    assert "six" not in text


@contextmanager
def asked_directly(port: int, **values: Any) -> Iterator[CompletionsExpert]:
    """Give a client of the expert's server, with K = 20 as hosts have it."""
    expert = CompletionsExpert(
        url=f"http://127.0.0.1:{port}/v1",
        top_k=20,
        vocabulary=len(ByteVocabulary.from_pretrained(resolve("embedded:smollm2-135m-instruct"))),
        end_ids=np.empty(0, dtype=np.int32),
        timeout_s=120.0,
        **values,
    )
    try:
        yield expert
    finally:
        expert.close()


def port_of(server: Server) -> int:
    return int(server.url.split(":")[2].removesuffix("/v1"))


def test_a_token_costs_few_bytes_however_long_the_text(cloud: Cloud) -> None:
    """Counted on the socket, headers and all; the distributions are those of whole texts."""
    traffic = Traffic()
    sizes = []
    with (
        slow_link(port_of(cloud.expert), traffic=traffic) as port,
        asked_directly(port) as short,
        asked_directly(port_of(cloud.expert), sessions=False) as whole,
    ):
        for length in (40, 700):
            text = [1000 + number for number in range(length)]
            # The server says what it can in its first reply; the next call opens a session.
            for _ in range(2):
                short.start([text], model="slm").result()
            traffic.taken()
            for _ in range(6):
                reply = short.start([text], model="slm").result()
                sizes.append(traffic.taken())
                other = whole.start([text], model="slm").result()
                (ours,), (theirs,) = reply.continuations, other.continuations
                assert ours.top.token_ids.shape == (1, 20)
                assert ours.tokens.tolist() == theirs.tokens.tolist()
                assert ours.top.logprobs == pytest.approx(theirs.top.logprobs, abs=1e-3)
                assert other.sent_bytes > 5 * length
                text = [*text, int(ours.tokens[0])]
        # Errors of the server come through.
        with pytest.raises(NoSuchModelError):
            short.start([text], model="absent").result()
    print(f"bytes up and down per token, 40 and 700 tokens of text: {sizes}")
    for up, down in sizes:
        assert 0 < up <= 300
        assert 0 < down <= 1000
    for way in zip(*sizes, strict=True):
        assert max(way) - min(way) <= 4


def test_a_server_that_loses_its_sessions_in_mid_answer_costs_no_token(cloud: Cloud) -> None:
    prompt = 3 * QUESTION
    options: dict[str, Any] = {"max_tokens": 96, "ignore_eos": True}
    # A server that has just announced sessions gets the text once more, which opens the session.
    cloud.host.complete(prompt, vllm_xargs={"floe_label": "opened"}, max_tokens=4)
    undisturbed = cloud.host.complete(prompt, vllm_xargs={"floe_label": "kept"}, **options)
    lost_at: list[int] = []

    def push_out() -> None:
        with asked_directly(port_of(cloud.expert)) as other:
            others = [[100 * number, *range(20)] for number in range(SESSIONS + 1)]
            other.start(others[:1], model="slm").result()
            for again in (8, 16):
                while len(cloud.lines("lost")) < 8 + sum(lost_at[-1:]):
                    time.sleep(0.01)
                other.start([[again, *each] for each in others], model="slm").result()
                lost_at.append(len(cloud.lines("lost")))

    pusher = threading.Thread(target=push_out)
    pusher.start()
    disturbed = cloud.host.complete(prompt, vllm_xargs={"floe_label": "lost"}, **options)
    pusher.join(timeout=60)
    assert disturbed == undisturbed
    whole = 4 * 3 * 30
    # Two losses cost one text where no call comes between them, or the second comes too late.
    assert lost_at[0] < 93
    for label, least, most in (("kept", 0, 0), ("lost", 1, 2)):
        lines = cloud.lines(label)
        assert [line["outcome"] for line in lines] == ["fused"] * 96
        # After the first token, which opens the session.
        sent = [line["sent_bytes"] for line in lines[1:]]
        assert least <= sum(each > whole for each in sent) <= most
        assert sum(sent) / len(sent) < whole


@pytest.fixture(scope="module")
def device(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """SmolLM2 on the user's device, with the cloud's Gemma as an untrusted expert."""
    # The cloud's expert is not needed any more, and three servers are too many for two cores.
    cloud.expert.kill()
    floe = floe_section(
        port_of(cloud.host),
        model="llm",
        tokenizer="embedded:gemma-3-270m",
        trusted=False,
    )
    spec = ServerSpec(
        model=resolve("embedded:smollm2-135m-instruct"), name="device", core=0, floe=floe
    )
    with running(spec, logs=tmp_path_factory.mktemp("device")) as (server,):
        yield server


def test_an_expert_killed_in_mid_answer_leaves_a_complete_answer(cloud: Cloud) -> None:
    reference = cloud.host.complete(QUESTION, max_tokens=60, ignore_eos=True)

    def kill_in_mid_answer() -> None:
        while len(cloud.lines("killed")) < 10:
            time.sleep(0.01)
        cloud.expert.kill()

    killer = threading.Thread(target=kill_in_mid_answer)
    killer.start()
    options = {"max_tokens": 60, "ignore_eos": True, "vllm_xargs": {"floe_label": "killed"}}
    reply = cloud.host.post("completions", {"prompt": QUESTION, "temperature": 0.0, **options})
    killer.join(timeout=60)
    assert reply.status_code == 200
    (choice,) = reply.json()["choices"]
    assert choice["finish_reason"] == "length"
    assert reply.json()["usage"]["completion_tokens"] == 60
    outcomes = [line["outcome"] for line in cloud.lines("killed")]
    assert outcomes[:10] == ["fused"] * 10
    assert outcomes[-1] in ("failed", "open")
    assert reference


def test_with_the_expert_down_the_host_writes_its_own_text(cloud: Cloud) -> None:
    cloud.expert.kill()
    plain = cloud.host.complete(PROMPTS, vllm_xargs={"floe": "host"}, logprobs=5)
    down = cloud.host.complete(PROMPTS, vllm_xargs={"floe": "fused"}, logprobs=5)
    assert down == plain


def test_private_text_causes_no_request_at_an_untrusted_expert(
    cloud: Cloud, device: Server
) -> None:
    before = cloud.host.prompts_served()
    (private,) = device.complete(PRIVATE, vllm_xargs={"floe": "fused"}, max_tokens=12)
    assert private
    assert cloud.host.prompts_served() == before
    (public,) = device.complete(PUBLIC, max_tokens=12)
    assert public
    assert cloud.host.prompts_served() > before
