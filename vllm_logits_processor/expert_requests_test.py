"""Which calls are made, and when: look-ahead, covers, drafts, budgets, an unsure host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from floe_plugins.gate import Gate
from vllm_logits_processor.engine import FusionEngine
from vllm_logits_processor.evidence import PromptScorer
from vllm_logits_processor.expert.protocol import ExpertError, ExpertReply
from vllm_logits_processor.stream import Stream
from vllm_logits_processor.testing.engines import (
    EXPERT,
    HOST,
    Scripted,
    engine,
    favourite_continuation,
    lines_of,
    some_logits,
    step,
    stream_of,
)


def decoded(parts: FusionEngine, text: bytes, tokens: int) -> Stream:
    """Decode greedily with a toy host whose logits follow from the last two tokens."""
    stream = stream_of(parts, text)
    for _ in range(tokens):
        parts.begin_step([stream])
        last = [*HOST.encode(text), *stream.output_ids][-2:]
        random = np.random.default_rng([7, *last])
        logits = torch.from_numpy(random.normal(0, 1, (1, len(HOST))).astype(np.float32))
        logits[0, [at for at, data in enumerate(HOST.token_bytes) if not data]] = -torch.inf
        parts.decide(logits, {0: stream}).write(logits)
        stream.output_ids.append(int(logits.argmax()))
    return stream


@pytest.mark.parametrize("covers", [0, 3])
@pytest.mark.parametrize("router", ["mean", "evidence"])
def test_look_ahead_changes_no_token_and_saves_waiting(
    router: str, covers: int, tmp_path: Path
) -> None:
    texts, waits = [], []
    for lookahead in (1, 2, 8):
        expert = Scripted()
        expert.mode = "toy"
        trace = tmp_path / f"{lookahead}"
        parts = engine(
            expert, lookahead=lookahead, router=router, covers=covers, trace_file=str(trace)
        )
        texts.append(decoded(parts, b"The cat sat on", 60).output_ids)
        waits.append(sum(not line["followed"] for line in lines_of(trace)))
        assert {line["outcome"] for line in lines_of(trace)} == {"fused"}
    assert texts[0] == texts[1] == texts[2]
    assert waits[2] < waits[1] < waits[0] == 60


def test_a_call_started_ahead_is_waited_for_when_the_text_gets_there(expert: Scripted) -> None:
    """The expert always predicts " cat"; the text follows until it needs the call ahead."""
    parts = engine(expert, lookahead=2)
    stream = stream_of(parts, b"The")
    cat = HOST.encode(b" cat")
    step(parts, {0: stream})
    stream.output_ids += cat
    expert.mode = "silent"
    step(parts, {0: stream})
    assert expert.steps[-1] == 2
    assert len(expert.silent) == 1
    stream.output_ids += cat
    expert.silent[0].set_result(
        ExpertReply(continuations=(favourite_continuation([], 2),), sent_bytes=1, received_bytes=1)
    )
    asked = len(expert.calls)
    assert not torch.equal(step(parts, {0: stream}), some_logits())
    assert [prompts for prompts, _ in expert.calls[asked:]] in (
        [],
        [[EXPERT.encode(b"The cat cat cat cat")]],
    )


def test_a_call_ahead_that_the_text_departs_from_is_let_go(expert: Scripted) -> None:
    parts = engine(expert, lookahead=2)
    stream = stream_of(parts, b"The")
    step(parts, {0: stream})
    stream.output_ids += HOST.encode(b" cat")
    expert.mode = "silent"
    step(parts, {0: stream})
    ahead = stream.ahead
    assert ahead is not None
    assert not ahead.call.future.done()
    stream.output_ids += HOST.encode(b" sat")
    expert.mode = "toy"
    parts.begin_step([stream])
    # A slow, useless call does not block the next one.
    assert stream.ahead is None
    assert not ahead.call.reported
    expert.silent[0].set_result(
        ExpertReply(continuations=(favourite_continuation([], 2),), sent_bytes=1, received_bytes=1)
    )
    assert ahead.call.reported


def test_the_calls_of_a_stream_that_ends_are_counted(expert: Scripted) -> None:
    parts = engine(expert)
    expert.mode = "silent"
    stream = stream_of(parts, b"The")
    parts.begin_step([stream])
    pending = stream.pending
    assert pending is not None
    parts.end_stream(stream)
    assert not pending.call.reported
    expert.silent[0].set_exception(ExpertError("down"))
    assert pending.call.reported


@pytest.mark.parametrize(
    "values", [{"ask": "unsure", "unsure_nats": 1e-6}, {"answer_budget_ms": 1e-6}]
)
def test_nothing_is_asked_ahead_that_may_not_be_asked(
    expert: Scripted, values: dict[str, Any]
) -> None:
    """The first token's wait spends the budget; an unsure host calls the expert late."""
    parts = engine(expert, lookahead=8, **values)
    stream = stream_of(parts, b"The")
    step(parts, {0: stream})
    asked = len(expert.calls)
    assert asked
    for _ in range(3):
        stream.output_ids += HOST.encode(b" cat")
        parts.begin_step([stream])
        assert len(expert.calls) == asked
        assert stream.ahead is None


def test_an_answer_waits_no_longer_than_its_budget(expert: Scripted, tmp_path: Path) -> None:
    expert.mode = "silent"
    parts = engine(
        expert,
        deadline_ms=30,
        first_deadline_ms=30,
        answer_budget_ms=50,
        breaker_failures=100,
        trace_file=str(tmp_path / "trace"),
    )
    stream = stream_of(parts, b"The")
    for token in (5, 6, 7, 5):
        assert torch.equal(step(parts, {0: stream}), some_logits())
        stream.output_ids.append(token)
    outcomes = [line["outcome"] for line in lines_of(tmp_path / "trace")]
    assert outcomes == ["late", "late", "budget", "budget"]


def test_a_text_beyond_the_experts_context_leaves_the_others_their_call(
    expert: Scripted, tmp_path: Path
) -> None:
    parts = engine(expert, context=9, lookahead=2, trace_file=str(tmp_path / "trace"))
    long, short = stream_of(parts, b"The cat sat on the mat. " * 4), stream_of(parts, b"The")
    logits = some_logits(2)
    before = logits.clone()
    parts.begin_step([long, short])
    parts.decide(logits, {0: long, 1: short}).write(logits)
    assert [line["outcome"] for line in lines_of(tmp_path / "trace")] == ["too-long", "fused"]
    assert torch.equal(logits[0], before[0])
    assert not torch.equal(logits[1], before[1])
    for call in expert.calls:
        assert all(len(prompt) + 2 <= 9 for prompt in call[0])


@pytest.mark.parametrize(
    "values", [{"ask": "unsure", "unsure_nats": 1.0}, {"ask": "margin", "unsure_margin": 0.7}]
)
def test_a_sure_host_is_left_alone(
    values: dict[str, Any], expert: Scripted, tmp_path: Path
) -> None:
    parts = engine(expert, trace_file=str(tmp_path / "trace"), covers=3, **values)
    sure, unsure = stream_of(parts, b"The"), stream_of(parts, b"The cat")
    logits = some_logits(2)
    logits[0, 5] = 40.0
    before = logits.clone()
    parts.begin_step([sure, unsure])
    assert expert.calls == []
    parts.decide(logits, {0: sure, 1: unsure}).write(logits)
    assert torch.equal(logits[0], before[0])
    assert not torch.equal(logits[1], before[1])
    ((prompts, _),) = expert.calls
    assert EXPERT.encode(b"The cat") in prompts
    outcomes = [line["outcome"] for line in lines_of(tmp_path / "trace")]
    assert outcomes == ["sure", "fused"]


def test_rows_of_drafts_are_asked_as_if_the_text_had_taken_them(expert: Scripted) -> None:
    """A row after drafts equals the row once they are part of the text."""
    expert.mode = "toy"
    cat, sat = HOST.encode(b" cat"), HOST.encode(b" sat")
    assert len(cat) == len(sat) == 1
    parts = engine(expert, covers=3)
    drafted = stream_of(parts, b"The")
    logits = some_logits(3)
    drafts = {1: cat, 2: [*cat, *sat]}
    parts.begin_step([drafted])
    parts.decide(logits, dict.fromkeys(range(3), drafted), drafts).write(logits)

    alone = stream_of(parts, b"The")
    for row, token in enumerate((cat[0], sat[0], 0)):
        expected = some_logits(3)
        parts.begin_step([alone])
        parts.decide(expected, {row: alone}).write(expected)
        assert torch.allclose(expected[row], logits[row], atol=1e-5)
        alone.output_ids.append(token)

    # Distributions received for drafts are used once these are accepted, and count as evidence.
    asked = len(expert.calls)
    drafted.output_ids += [*cat, *sat]
    parts.begin_step([drafted])
    again = [prompt for prompts, _ in expert.calls[asked:] for prompt in prompts]
    assert EXPERT.encode(b"The cat sat") not in again
    assert EXPERT.encode(b"The cat") not in again
    alone.output_ids.pop()
    alone.advance()
    assert drafted.evidence.value == pytest.approx(alone.evidence.value)


def test_covers_share_the_request_of_the_text(expert: Scripted) -> None:
    expert.mode = "toy"
    parts = engine(expert, covers=3)
    step(parts, {0: stream_of(parts, b"The cat sat on the wa"), 1: stream_of(parts, b"The")}, 2)
    ((prompts, _),) = expert.calls
    assert EXPERT.encode(b"The cat sat on the wa") in prompts
    assert EXPERT.encode(b"The cat sat on the") in prompts


def test_a_prompt_is_scored_once_and_begins_the_evidence(expert: Scripted) -> None:
    host = Scripted()
    host.nats_per_token = -2.0
    text = b"The cat sat on the mat; the mat was flat"
    parts = engine(expert, scorer=PromptScorer(host=host, host_model="llm", expert=expert))
    stream = stream_of(parts, text)
    step(parts, {0: stream})
    stream.output_ids += HOST.encode(b" cat")
    step(parts, {0: stream})
    assert host.scored == [(HOST.encode(text), "llm")]
    assert expert.scored == [(EXPERT.encode(text), "slm")]
    tokens = len(HOST.encode(text)) - 1
    expected = 3 * (len(EXPERT.encode(text)) - 1) / tokens - 2
    assert stream.evidence.prompt == pytest.approx(expected)


def test_the_router_perplexity_weighs_by_the_prompt_alone(expert: Scripted) -> None:
    host = Scripted()
    host.nats_per_token = -2.0
    scorer = PromptScorer(host=host, host_model="llm", expert=expert)
    parts = engine(expert, router="perplexity", scorer=scorer)
    weights = []
    for text in (b"The cat sat on the mat; the mat was flat", b"The"):
        stream = stream_of(parts, text)
        for _ in range(3):
            step(parts, {0: stream})
            stream.output_ids += HOST.encode(b" 12")
        weights.append((stream.summary.lowest_weight, stream.summary.highest_weight))
    (scored, unscored) = weights
    assert scored[0] == pytest.approx(scored[1])
    assert scored[0] != pytest.approx(0.5)
    assert unscored == pytest.approx((0.5, 0.5))


def test_a_private_prompt_is_not_scored_by_the_expert(expert: Scripted) -> None:
    scorer = PromptScorer(host=Scripted(), host_model="llm", expert=expert)
    parts = engine(expert, gate=Gate(), scorer=scorer)
    step(parts, {0: stream_of(parts, b"Write a long reply to joe@example.org, and to the others")})
    assert expert.scored == []
