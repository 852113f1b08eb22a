"""vLLM's V1 runner with all that a server does to requests, on a tiny host and a canned expert.

The expert is canned: its answer is a fixed function of the request, so that texts can be compared
token for token. Real experts answer in `serving_test`.
"""

from __future__ import annotations

import base64
import io
import time
from typing import Any

import pytest
import torch

from integration_tests.harness.hosted import (
    HOST,
    Hosted,
    abort,
    finished,
    labelled,
    outcomes,
    streamed,
)
from integration_tests.harness.tiny_models import LONG_PROMPT, PROMPTS, TinyModels

pytestmark = pytest.mark.timeout(600)


def test_every_token_is_fused_and_no_neighbour_matters(rows: Hosted) -> None:
    together = rows.server.tokens(PROMPTS, **labelled("every"))
    assert together == [rows.server.tokens(prompt)[0] for prompt in PROMPTS]
    assert together != rows.server.tokens(PROMPTS, **HOST)
    assert outcomes(rows, "every").keys() == {"fused"}
    assert outcomes(rows, "every")["fused"] >= 24 * len(PROMPTS)


def test_preempted_requests_go_on_as_they_were(rows: Hosted) -> None:
    """The cache holds 384 tokens; the answers need more, so vLLM recomputes some of them."""
    long = {"max_tokens": 120, "ignore_eos": True}
    alone = [rows.server.tokens(prompt, **long)[0] for prompt in PROMPTS]
    before, ended = rows.server.counted("num_preemptions"), finished(rows)
    together = rows.server.tokens(PROMPTS, **long, **labelled("preempted"))
    assert rows.server.counted("num_preemptions") > before
    assert together == alone
    assert outcomes(rows, "preempted").keys() == {"fused"}
    assert finished(rows) == ended + len(PROMPTS)


def test_a_prompt_in_chunks_is_answered_as_one_in_the_cache(rows: Hosted) -> None:
    hits = rows.server.counted("prefix_cache_hits")
    (first,) = rows.server.tokens(LONG_PROMPT, **labelled("chunks"))
    assert rows.server.counted("prefix_cache_hits") == hits
    # Rows at the ends of chunks, of which nothing is sampled, and then those of the answer.
    assert outcomes(rows, "chunks")["fused"] > 24
    (again,) = rows.server.tokens(LONG_PROMPT, **labelled("cached"))
    assert rows.server.counted("prefix_cache_hits") > hits
    assert outcomes(rows, "cached")["fused"] == 24
    assert again == first


def test_streaming_says_the_same(rows: Hosted) -> None:
    assert [streamed(rows)] == rows.server.tokens(PROMPTS[0])


def test_processed_logprobs_are_those_of_the_answer(rows: Hosted) -> None:
    """As vLLM has it by default they are the host's, and a greedy token may not be their first."""

    def said(**options: Any) -> list[tuple[float, float]]:
        # By their ids: two tokens may have the same text, as single bytes of a character do.
        asked = {"logprobs": 2, "return_tokens_as_token_ids": True, **options}
        body = {"model": "tiny", "prompt": PROMPTS[0], "max_tokens": 24, "temperature": 0.0}
        reply = rows.server.post("completions", {**body, **asked}).json()
        logprobs = reply["choices"][0]["logprobs"]
        best = [max(top.values()) for top in logprobs["top_logprobs"]]
        return list(zip(logprobs["token_logprobs"], best, strict=True))

    fused = said()
    assert all(chosen == best for chosen, best in fused)
    assert fused != said(**HOST)


def test_several_answers_to_one_prompt(rows: Hosted) -> None:
    sampled = {"temperature": 1.0, "seed": 5, "n": 3}
    first = rows.server.tokens(PROMPTS[1], **sampled, **labelled("several"))
    assert first == rows.server.tokens(PROMPTS[1], **sampled)
    assert len({tuple(tokens) for tokens in first}) == 3
    assert outcomes(rows, "several").keys() == {"fused"}


def test_sampling_comes_after_fusion(rows: Hosted) -> None:
    greedy = rows.server.tokens(PROMPTS)
    # Not the lowest temperature, to which vLLM raises others, 0.01: near ties are drawn at it.
    for narrow in ({"min_p": 1.0}, {"top_k": 1}, {"top_p": 1e-6}):
        drawn = rows.server.tokens(PROMPTS, **{"temperature": 0.7, "seed": 1, **narrow})
        assert drawn == greedy, narrow


def test_structured_output_keeps_its_mask(rows: Hosted) -> None:
    choices = ["The mat was flat", "One hundred cats"]
    structured = {"structured_outputs": {"choice": choices}, "max_tokens": 40}
    text, *_ = rows.server.complete(PROMPTS[0], **structured, **labelled("structured"))
    assert text in choices
    assert outcomes(rows, "structured")["fused"] > 0


def test_stop_strings_stop(rows: Hosted) -> None:
    (text,) = rows.server.complete(PROMPTS[2], max_tokens=40)
    stop = text[10:13]
    (stopped,) = rows.server.complete(PROMPTS[2], max_tokens=40, stop=[stop])
    assert stopped == text[: text.index(stop)]


def test_an_aborted_answer_ends_its_stream(rows: Hosted) -> None:
    rows.server.complete(PROMPTS[0], max_tokens=1)
    ended = finished(rows)
    abort(rows, max_tokens=200)
    deadline = time.monotonic() + 30
    while finished(rows) == ended and time.monotonic() < deadline:
        time.sleep(0.1)
    assert finished(rows) == ended + 1
    assert 0 < outcomes(rows, "aborted")["fused"] < 200
    assert rows.server.tokens(PROMPTS[0]) == rows.server.tokens(PROMPTS[0])


def test_an_adapter_of_the_host_is_fused_too(rows: Hosted) -> None:
    tuned = rows.server.tokens(PROMPTS, model="tuned", **labelled("tuned"))
    assert tuned != rows.server.tokens(PROMPTS)
    assert tuned != rows.server.tokens(PROMPTS, model="tuned", **HOST)
    assert outcomes(rows, "tuned").keys() == {"fused"}


def test_a_prompt_given_as_embeddings_is_the_hosts(rows: Hosted, tiny: TinyModels) -> None:
    embeddings = tiny.embeddings(PROMPTS[1])
    buffer = io.BytesIO()
    torch.save(embeddings, buffer)
    encoded = {"prompt_embeds": base64.b64encode(buffer.getvalue()).decode()}
    own = rows.server.choices(None, **encoded, return_token_ids=True, **HOST)[0]["token_ids"]
    answer = rows.server.choices(None, **encoded, return_token_ids=True, **labelled("embedded"))
    assert answer[0]["token_ids"] == own
    assert outcomes(rows, "embedded") == {"no-prompt": 24}
    assert [own] == rows.server.tokens(PROMPTS[1], **HOST)


def test_wrong_options_answer_400(rows: Hosted) -> None:
    reply = rows.server.post("completions", {"prompt": "The", "vllm_xargs": {"floe": "maybe"}})
    assert reply.status_code == 400
    assert "auto, host, fused" in reply.text
