"""Whole steps on small trained tokenizers, with an expert whose replies the test sets.

The expert is scripted because faults and timing must be exact; integration_tests has real ones.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from floe_plugins.gate import Gate
from vllm_logits_processor.engine import HiddenTokenError
from vllm_logits_processor.request_options import RequestOptions
from vllm_logits_processor.stream import UNKNOWN_TOKEN
from vllm_logits_processor.testing.engines import (
    EXPERT,
    FUSED,
    HOST,
    Scripted,
    engine,
    lines_of,
    some_logits,
    step,
    stream_of,
)


def test_the_expert_changes_the_logits(expert: Scripted) -> None:
    parts = engine(expert)
    fused = step(parts, {0: stream_of(parts, b"The")})
    cat = HOST.encode(b" cat")[0]
    gain = torch.softmax(fused, -1)[0, cat] / torch.softmax(some_logits(), -1)[0, cat]
    assert gain > 5


def test_the_beginning_of_a_value_does_not_leave_with_a_stream_opened_anew(
    expert: Scripted,
) -> None:
    """As for a request that returns from preemption with its answer so far."""
    parts = engine(expert, gate=Gate(timeout_s=30))
    prompt = HOST.encode(b"Please write the card number down")
    answer = HOST.encode(b": 4111 1111 1")
    stream = parts.new_stream(prompt, answer, FUSED)
    assert stream is not None
    step(parts, {0: stream})
    assert expert.calls == []
    assert stream.summary.tokens == {"private": 1}
    stream.output_ids += HOST.encode(b" or so it is said")
    step(parts, {0: stream})
    assert len(expert.calls) == 1


def test_the_expert_does_not_give_back_a_token_that_a_bias_forbids(expert: Scripted) -> None:
    cat = HOST.encode(b" cat")[0]
    logits, shares = some_logits(2), []
    logits[:, cat] -= 30
    for unwanted in ((), (cat,)):
        parts = engine(expert)
        stream = parts.new_stream(HOST.encode(b"The"), [], FUSED, unwanted=unwanted)
        assert stream is not None
        streams = {0: stream_of(parts, b"The"), 1: stream}
        fused = logits.clone()
        parts.begin_step(list(streams.values()))
        cells = parts.decide(fused, streams)
        assert torch.equal(fused, logits)
        cells.write(fused)
        shares.append(torch.softmax(fused, -1)[:, cat])
        assert not torch.equal(fused[1], logits[1])
    (without, _), (beside, forbidden) = shares[0].tolist(), shares[1].tolist()
    assert without == beside > 0.1
    assert forbidden <= torch.softmax(logits, -1)[1, cat]


def test_one_call_per_step_and_model(expert: Scripted) -> None:
    parts = engine(expert)
    adapter = RequestOptions(mode="fused", expert_model="cluster-1")
    streams = {
        0: stream_of(parts, b"The cat"),
        1: stream_of(parts, b"The mat", adapter),
        2: stream_of(parts, b"The"),
    }
    step(parts, streams, rows=3)
    assert expert.calls == [
        ([EXPERT.encode(b"The cat"), EXPERT.encode(b"The")], "slm"),
        ([EXPERT.encode(b"The mat")], "cluster-1"),
    ]


def test_a_call_carries_the_text_so_far(expert: Scripted) -> None:
    parts = engine(expert)
    stream = stream_of(parts, b"The cat")
    step(parts, {0: stream})
    stream.output_ids += HOST.encode(b" sat on")
    step(parts, {0: stream})
    assert [prompts for prompts, _ in expert.calls] == [
        [EXPERT.encode(b"The cat")],
        [EXPERT.encode(b"The cat sat on")],
    ]


@pytest.mark.parametrize(("mode", "outcome"), [("fail", "failed"), ("silent", "late")])
def test_without_an_answer_the_host_keeps_its_bits(
    expert: Scripted, tmp_path: Path, mode: str, outcome: str
) -> None:
    expert.mode = mode
    parts = engine(expert, trace_file=str(tmp_path / "trace"), breaker_failures=2)
    stream = stream_of(parts, b"The")
    for token in (5, 6, 7):
        assert torch.equal(step(parts, {0: stream}), some_logits())
        stream.output_ids.append(token)
    outcomes = [line["outcome"] for line in lines_of(tmp_path / "trace")]
    assert outcomes == [outcome, outcome, "open"]
    assert len(expert.calls) == 2


def test_rows_without_a_stream_keep_their_bits(expert: Scripted) -> None:
    parts = engine(expert)
    fused = step(parts, {1: stream_of(parts, b"The")}, rows=3)
    assert torch.equal(fused[[0, 2]], some_logits(3)[[0, 2]])
    assert not torch.equal(fused[1], some_logits(3)[1])


def test_a_row_does_not_depend_on_its_neighbours(expert: Scripted) -> None:
    parts = engine(expert)
    streams = {row: stream_of(parts, text) for row, text in enumerate((b"The", b"A cat", b"12"))}
    together = step(parts, streams, rows=3)
    for row, text in enumerate((b"The", b"A cat", b"12")):
        alone = some_logits(3)
        stream = {row: stream_of(parts, text)}
        parts.begin_step(list(stream.values()))
        parts.decide(alone, stream).write(alone)
        assert torch.equal(alone[row], together[row])


def test_a_host_request_makes_no_stream(expert: Scripted) -> None:
    parts = engine(expert)
    assert parts.new_stream([1], [], RequestOptions(mode="host")) is None
    assert parts.new_stream([1], [], RequestOptions()) is not None
    quiet = engine(expert, default_mode="host")
    assert quiet.new_stream([1], [], RequestOptions()) is None
    assert quiet.new_stream([1], [], FUSED) is not None


def test_private_text_is_never_sent(expert: Scripted) -> None:
    parts = engine(expert, gate=Gate())
    secret = stream_of(parts, b"Write to joe@example.org")
    clear = stream_of(parts, b"The cat")
    fused = step(parts, {0: secret, 1: clear}, rows=2)
    assert expert.calls == [([EXPERT.encode(b"The cat")], "slm")]
    assert torch.equal(fused[0], some_logits(2)[0])


def test_an_answer_that_turns_private_is_sent_no_further(expert: Scripted) -> None:
    parts = engine(expert, gate=Gate())
    stream = stream_of(parts, b"Write to ")
    step(parts, {0: stream})
    stream.output_ids += HOST.encode(b"joe@example.org ")
    step(parts, {0: stream})
    stream.output_ids += HOST.encode(b"and so on " * 300)
    step(parts, {0: stream})
    assert len(expert.calls) == 1


def test_an_embedded_prompt_is_declined(expert: Scripted) -> None:
    parts = engine(expert)
    stream = parts.new_stream(None, [], FUSED)
    assert stream is not None
    assert torch.equal(step(parts, {0: stream}), some_logits())
    assert expert.calls == []


def test_the_weighed_token_is_no_evidence_until_it_is_sampled(expert: Scripted) -> None:
    """If a router saw the token it weighs, the logits would depend on the future."""
    parts = engine(expert)
    cat, other = HOST.encode(b" cat")[0], HOST.encode(b"12")[0]
    first, second = stream_of(parts, b"The"), stream_of(parts, b"The")
    assert torch.equal(step(parts, {0: first}), step(parts, {0: second}))
    assert first.evidence.value == second.evidence.value == 0.0
    first.output_ids.append(cat)
    second.output_ids.append(other)
    step(parts, {0: first})
    step(parts, {0: second})
    # The expert predicted " cat": with it the evidence favours the expert, else the host.
    assert first.evidence.value < 0 < second.evidence.value


def test_a_position_decoded_twice_asks_once(expert: Scripted) -> None:
    """Chunked prefill gives rows whose sample is discarded."""
    parts = engine(expert)
    stream = stream_of(parts, b"The cat sat")
    assert torch.equal(step(parts, {0: stream}), step(parts, {0: stream}))
    assert len(expert.calls) == 1


def test_a_hidden_token_is_awaited_and_then_asked_for(expert: Scripted) -> None:
    """Async scheduling shows the last token only after the forward pass."""
    parts = engine(expert)
    stream = stream_of(parts, b"The")
    step(parts, {0: stream})
    stream.output_ids.append(UNKNOWN_TOKEN)
    parts.begin_step([stream])
    assert len(expert.calls) == 1
    stream.output_ids[-1] = HOST.encode(b" cat")[0]
    logits = some_logits()
    parts.decide(logits, {0: stream}).write(logits)
    assert expert.calls[-1] == ([EXPERT.encode(b"The cat")], "slm")
    assert not torch.equal(logits, some_logits())


def test_a_token_that_stays_hidden_stops_with_an_explanation(expert: Scripted) -> None:
    parts = engine(expert)
    stream = stream_of(parts, b"The")
    stream.output_ids.append(UNKNOWN_TOKEN)
    with pytest.raises(HiddenTokenError, match="--logits-processors vllm_logits_processor"):
        step(parts, {0: stream})


def test_a_finished_stream_is_logged_without_text(
    expert: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    parts = engine(expert)
    stream = stream_of(parts, b"Zanzibar")
    step(parts, {0: stream})
    with caplog.at_level("INFO"):
        parts.end_stream(stream)
    (record,) = caplog.records
    assert '"fused": 1' in record.getMessage()
    assert "Zanzibar" not in record.getMessage()
