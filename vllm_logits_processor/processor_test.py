"""How the processor follows V1's batch; V2's slots are in `runners/slots_test.py`.

Live engines are in integration_tests.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from vllm import SamplingParams
from vllm.config import SpeculativeConfig, VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality, build_logitsprocs

from vllm_logits_processor import FloeLogitsProcessor
from vllm_logits_processor.alignment.align import Aligned, align
from vllm_logits_processor.cells import FusedCells
from vllm_logits_processor.engine import FusionEngine, HiddenTokenError
from vllm_logits_processor.expert.protocol import ExpertError
from vllm_logits_processor.fail_open import MOST_LOST
from vllm_logits_processor.processor import _beside_drafts
from vllm_logits_processor.runners.departures import KEPT_STEPS, MOST_TRIES
from vllm_logits_processor.runners.rows import RowBatch
from vllm_logits_processor.stream import UNKNOWN_TOKEN, Stream
from vllm_logits_processor.testing.engines import EXPERT, HOST, Scripted, engine, some_logits


def batch(**changes: Any) -> BatchUpdate:
    fields = {"batch_size": 4, "removed": [], "added": [], "moved": [], **changes}
    return BatchUpdate(**fields)


@pytest.fixture
def processor(expert: Scripted) -> FloeLogitsProcessor:
    return on_rows(engine(expert))


def on_rows(parts: FusionEngine) -> FloeLogitsProcessor:
    """Return a processor with these parts, in place of those that a configuration names."""
    processor = FloeLogitsProcessor(VllmConfig(), torch.device("cpu"), False)
    processor._config = parts._config
    processor._rows = RowBatch(parts, max_model_len=64, fail_open=processor._fail_open)
    return processor


def stream_in(processor: FloeLogitsProcessor, row: int) -> Stream:
    assert processor._rows is not None
    return processor._rows.streams[row]


@pytest.fixture
def ended(processor: FloeLogitsProcessor, monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """Return the streams that the engine received as finished, in order."""
    reported: list[Stream] = []
    assert processor._rows is not None
    monkeypatch.setattr(processor._rows._engine, "end_stream", reported.append)
    return reported


def added(
    row: int, text: bytes, output: list[int], floe: str | None = None, **options: Any
) -> tuple[Any, ...]:
    params = SamplingParams(extra_args={"floe": floe} if floe else None, **options)
    return row, params, HOST.encode(text), output


def changed_rows(processor: FloeLogitsProcessor) -> list[int]:
    logits = some_logits(4)
    processor.apply(logits)
    return [row for row in range(4) if not torch.equal(logits[row], some_logits(4)[row])]


@pytest.mark.parametrize("method", ["begin_step", "decide"])
def test_a_fault_costs_its_step_alone(
    processor: FloeLogitsProcessor,
    expert: Scripted,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    output: list[int] = []
    processor.update_state(batch(added=[added(0, b"The", output)]))
    assert changed_rows(processor) == [0]
    tokens = HOST.encode(b" cat")

    def fault(*arguments: object) -> None:
        raise torch.OutOfMemoryError

    assert processor._rows is not None
    monkeypatch.setattr(processor._rows._engine, method, fault)
    output.append(tokens[0])
    processor.update_state(batch(added=[added(1, b"12", [])]))
    assert changed_rows(processor) == []
    monkeypatch.undo()
    output.append(7)
    calls = len(expert.calls)
    processor.update_state(None)
    assert changed_rows(processor) == [0, 1]
    stream = stream_in(processor, 0)
    assert stream.text == b"The" + HOST.decode(output)
    asked = [prompt for prompts, _ in expert.calls[calls:] for prompt in prompts]
    assert sorted(asked) == sorted([EXPERT.encode(bytes(stream.text)), EXPERT.encode(b"12")])


def test_the_batch_is_followed_through_lost_steps(
    processor: FloeLogitsProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert processor._rows is not None
    processor.update_state(batch(added=[added(row, b"The", []) for row in range(3)]))
    assert changed_rows(processor) == [0, 1, 2]
    kept = stream_in(processor, 2)

    def fault(*arguments: object) -> None:
        raise MemoryError

    for method in ("begin_step", "new_stream", "end_stream"):
        monkeypatch.setattr(processor._rows._engine, method, fault)
    update = batch(
        removed=[0],
        added=[added(3, b"12", [])],
        moved=[(2, 0, MoveDirectionality.UNIDIRECTIONAL), (1, 3, MoveDirectionality.SWAP)],
    )
    processor.update_state(update)
    assert changed_rows(processor) == []
    monkeypatch.undo()
    processor.update_state(None)
    assert changed_rows(processor) == [0, 1, 3]
    assert stream_in(processor, 0) is kept
    assert stream_in(processor, 1).text == b"12"


def test_a_request_that_cannot_be_opened_leaves_its_neighbours_alone(
    processor: FloeLogitsProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert processor._rows is not None
    parts = processor._rows._engine
    new_stream, tries = parts.new_stream, []

    def poisoned(prompt_ids: list[int], *rest: Any, **options: Any) -> Any:
        if prompt_ids == HOST.encode(b"12"):
            tries.append(True)
            raise IndexError
        return new_stream(prompt_ids, *rest, **options)

    monkeypatch.setattr(parts, "new_stream", poisoned)
    processor.update_state(batch(added=[added(0, b"The", []), added(1, b"12", [])]))
    for _ in range(2 * MOST_LOST):
        assert changed_rows(processor) == [0]
        processor.update_state(None)
    assert len(tries) == MOST_TRIES


def test_a_fault_half_way_through_a_token_does_not_double_it(
    processor: FloeLogitsProcessor, expert: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    output: list[int] = []
    processor.update_state(batch(added=[added(0, b"The", output)]))
    processor.apply(some_logits(4))
    stream = stream_in(processor, 0)
    tokens = HOST.encode(b" cat")

    def fault(*arguments: object) -> None:
        raise MemoryError

    output.append(tokens[0])
    monkeypatch.setattr(type(stream.prefix), "extend", fault)
    processor.update_state(None)
    monkeypatch.undo()
    assert stream.text != b"The"
    assert changed_rows(processor) == []
    judged = replace(stream.evidence)
    processor.update_state(None)
    assert changed_rows(processor) == [0]
    assert stream.text == b"The" + HOST.decode(output)
    assert expert.calls[-1][0] == [EXPERT.encode(bytes(stream.text))]
    assert stream.evidence.observed == judged.observed == 1


def test_calls_of_a_lost_step_are_let_go_of(
    processor: FloeLogitsProcessor, expert: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert processor._rows is not None
    reported: list[str] = []
    calls = processor._rows._engine._requests._calls
    calls._on_settled = lambda *, outcome, **_: reported.append(outcome)
    expert.mode = "silent"
    processor.update_state(batch(added=[added(0, b"The", [])]))

    def fault(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr("vllm_logits_processor.engine.FusionEngine._join", fault)
    assert changed_rows(processor) == []
    assert stream_in(processor, 0).pending is None
    assert reported == []
    expert.silent[0].set_exception(ExpertError("The expert is down."))
    assert reported == ["failed"]


def test_a_fault_in_writing_costs_its_step_alone(
    processor: FloeLogitsProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor.update_state(batch(added=[added(0, b"The", [])]))

    def fault(*arguments: object) -> None:
        raise MemoryError

    for kind in (FusedCells, *FusedCells.__subclasses__()):
        monkeypatch.setattr(kind, "write", fault)
    assert changed_rows(processor) == []
    monkeypatch.undo()
    processor.update_state(None)
    assert changed_rows(processor) == [0]


def test_a_fault_that_comes_back_ends_fusion_and_all_streams(
    processor: FloeLogitsProcessor, ended: list[Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor.update_state(batch(added=[added(0, b"The", [])]))
    stream = stream_in(processor, 0)

    def fault(*arguments: object) -> None:
        raise IndexError

    assert processor._rows is not None
    monkeypatch.setattr(processor._rows._engine, "decide", fault)
    for _ in range(MOST_LOST):
        processor.update_state(None)
        assert changed_rows(processor) == []
    processor.update_state(batch(added=[added(1, b"The", [])]))
    assert ended == [stream]
    assert processor._rows is None
    assert changed_rows(processor) == []


def test_departed_streams_hold_nothing_of_their_step(
    processor: FloeLogitsProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Aligned]] = []

    def noted(*arguments: Any) -> Aligned:
        aligned = align(*arguments)
        made.append(weakref.ref(aligned))
        return aligned

    monkeypatch.setattr("vllm_logits_processor.engine.align", noted)
    processor.update_state(batch(added=[added(row, b"The", []) for row in range(4)]))
    processor.apply(some_logits(4))
    streams = [stream_in(processor, row) for row in range(4)]
    processor.update_state(batch(removed=[1, 2, 3]))
    assert [each() for each in made] == [None]
    there, *departed = (stream._weighed[0] for stream in streams)
    for row, weighed in enumerate(departed, 1):
        assert weighed.factors.nbytes < 1000
        assert weighed.of(5) == there.factors.of(row, 5)


def test_the_engine_is_closed_with_its_processor(
    expert: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = engine(expert)
    closed: list[bool] = []
    monkeypatch.setattr(parts, "close", lambda: closed.append(True))
    monkeypatch.setattr("vllm_logits_processor.processor._engine", lambda *_: parts)
    monkeypatch.setattr("vllm_logits_processor.processor._configuration", lambda _: parts._config)
    config = SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=64), parallel_config=VllmConfig().parallel_config
    )
    made = FloeLogitsProcessor(cast("VllmConfig", config), torch.device("cpu"), False)
    assert closed == []
    del made
    gc.collect()
    assert closed == [True]


def test_without_configuration_nothing_happens() -> None:
    processor = FloeLogitsProcessor(VllmConfig(), torch.device("cpu"), False)
    processor.update_state(batch(added=[added(0, b"The", [])]))
    logits = some_logits(4)
    assert processor.apply(logits) is logits
    assert torch.equal(logits, some_logits(4))
    assert not processor.is_argmax_invariant()


def test_the_call_starts_before_the_forward_pass(
    processor: FloeLogitsProcessor, expert: Scripted
) -> None:
    processor.update_state(batch(added=[added(2, b"The", [])]))
    assert len(expert.calls) == 1
    assert changed_rows(processor) == [2]


def test_rows_of_a_padded_vocabulary_are_fused_too(processor: FloeLogitsProcessor) -> None:
    processor.update_state(batch(added=[added(1, b"The", [])]))
    dense = some_logits(4)
    processor.apply(dense)
    padded = torch.nn.functional.pad(some_logits(4), (0, 10))[:, : len(HOST)]
    assert not padded.is_contiguous()
    assert torch.equal(processor.apply(padded), dense)


def test_rows_follow_removals_additions_and_moves(processor: FloeLogitsProcessor) -> None:
    outputs: list[list[int]] = [[], [], []]
    processor.update_state(
        batch(
            added=[
                added(0, b"The", outputs[0]),
                added(1, b"A cat", outputs[1], floe="host"),
                added(2, b"12", outputs[2]),
            ]
        )
    )
    assert changed_rows(processor) == [0, 2]
    processor.update_state(batch(moved=[(2, 1, MoveDirectionality.SWAP)]))
    assert changed_rows(processor) == [0, 1]
    processor.update_state(batch(removed=[0], moved=[(1, 0, MoveDirectionality.UNIDIRECTIONAL)]))
    assert changed_rows(processor) == [0]
    processor.update_state(batch(added=[added(0, b"The", [], floe="host")]))
    assert changed_rows(processor) == []


def test_a_preempted_request_comes_back_as_it_was(
    processor: FloeLogitsProcessor, ended: list[Stream]
) -> None:
    output: list[int] = []
    processor.update_state(batch(added=[added(0, b"The", output)]))
    processor.apply(some_logits(4))
    output.append(HOST.encode(b" cat")[0])
    processor.update_state(None)
    stream = stream_in(processor, 0)
    assert stream.evidence.value != 0
    processor.update_state(batch(removed=[0]))
    assert changed_rows(processor) == []
    processor.update_state(batch(added=[added(3, b"The", output)]))
    assert stream_in(processor, 3) is stream
    assert ended == []
    processor.update_state(batch(removed=[3], added=[added(0, b"12", list(output))]))
    assert stream_in(processor, 0).evidence.value == 0
    assert stream_in(processor, 0).text == b"12 cat"


def test_a_request_returns_with_a_new_list_and_goes_on(
    processor: FloeLogitsProcessor, ended: list[Stream]
) -> None:
    """As with asynchronous scheduling, whose last token was not known when it left."""
    output: list[int] = []
    processor.update_state(batch(added=[added(0, b"The", output)]))
    processor.apply(some_logits(4))
    output.append(HOST.encode(b" cat")[0])
    processor.update_state(None)
    processor.apply(some_logits(4))
    stream = stream_in(processor, 0)
    output.append(UNKNOWN_TOKEN)
    processor.update_state(batch(removed=[0]))
    again = [*output[:-1], HOST.encode(b" 12")[0]]
    processor.update_state(batch(added=[added(3, b"The", again)]))
    assert stream_in(processor, 3) is stream
    assert stream.output_ids is again
    assert stream.text == b"The" + HOST.decode(again)
    assert stream.evidence.observed == 2
    assert changed_rows(processor) == [3]
    assert stream.summary.tokens == {"fused": 3}
    assert ended == []


def test_a_bias_that_forbids_a_token_holds(processor: FloeLogitsProcessor) -> None:
    cat = HOST.encode(b" cat")[0]
    rows = [
        added(row, b"The", [], logit_bias=bias)
        for row, bias in enumerate(({cat: -5.0}, {cat: -30.0}))
    ]
    processor.update_state(batch(added=rows))
    logits = some_logits(2)
    # vLLM has added the bias by now.
    logits[0, cat] -= 5
    logits[1, cat] -= 30
    weak, strong = torch.softmax(processor.apply(logits), -1)[:, cat].tolist()
    assert weak > 0.1
    assert strong < 1e-9


def test_a_request_that_its_tokens_end_is_finished_at_once(
    processor: FloeLogitsProcessor, ended: list[Stream]
) -> None:
    outputs: list[list[int]] = [[], [], [], []]
    processor.update_state(
        batch(
            added=[
                added(0, b"The", outputs[0], max_tokens=2),
                added(1, b"The", outputs[1], stop_token_ids=[7]),
                added(2, b"The", outputs[2]),
                added(3, b"12" * 30, outputs[3]),
            ]
        )
    )
    streams = [stream_in(processor, row) for row in range(4)]
    for output, tokens in zip(outputs, ([5, 6], [7], [5], [5] * 40), strict=True):
        output.extend(tokens)
    processor.update_state(batch(removed=[0, 1, 2, 3]))
    # The third was stopped by a string, aborted, or preempted: vLLM does not say which.
    assert ended == [streams[0], streams[1], streams[3]]
    for _ in range(KEPT_STEPS + 1):
        processor.update_state(None)
    assert ended == [streams[0], streams[1], streams[3], streams[2]]


def test_a_row_that_is_moved_over_another_takes_its_place(
    processor: FloeLogitsProcessor, ended: list[Stream]
) -> None:
    """`InputBatch.condense` fills a gap so, without naming the request that left it."""
    outputs: list[list[int]] = [[], [], []]
    texts = (b"The", b"12", b"A cat")
    rows = [
        added(row, text, output, max_tokens=1)
        for row, (text, output) in enumerate(zip(texts, outputs, strict=True))
    ]
    processor.update_state(batch(added=rows))
    first, second, third = (stream_in(processor, row) for row in range(3))
    outputs[0].append(5)
    processor.update_state(batch(moved=[(2, 0, MoveDirectionality.UNIDIRECTIONAL)]))
    assert ended == [first]
    assert stream_in(processor, 0) is third
    processor.update_state(batch(moved=[(1, 0, MoveDirectionality.UNIDIRECTIONAL)]))
    assert stream_in(processor, 0) is second
    processor.update_state(batch(added=[added(1, texts[2], outputs[2])]))
    assert stream_in(processor, 1) is third


def test_with_an_empty_batch_all_are_finished(
    processor: FloeLogitsProcessor, ended: list[Stream]
) -> None:
    processor.update_state(batch(added=[added(0, b"The", []), added(1, b"The", [])]))
    processor.update_state(batch(removed=[1]))
    assert ended == []
    processor.update_state(batch(removed=[0], batch_size=0))
    assert len(ended) == 2


def test_under_async_scheduling_the_call_starts_when_the_token_is_there(
    processor: FloeLogitsProcessor, expert: Scripted
) -> None:
    """vLLM writes -1 for a token that it lacks yet, and the token itself before `apply`."""
    output: list[int] = []
    processor.update_state(batch(added=[added(0, b"The", output)]))
    processor.apply(some_logits(4))
    output.append(-1)
    processor.update_state(None)
    assert len(expert.calls) == 1
    output[-1] = HOST.encode(b" cat")[0]
    assert changed_rows(processor) == [0]
    assert len(expert.calls) == 2
    output.append(-1)
    processor.update_state(None)
    with pytest.raises(HiddenTokenError, match="--logits-processors vllm_logits_processor"):
        processor.apply(some_logits(4))


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="accepted is auto, host, fused"):
        FloeLogitsProcessor.validate_params(SamplingParams(extra_args={"floe": "maybe"}))


def test_speculative_decoding_is_refused_by_v1_itself() -> None:
    """V1 has no rows for drafts: it refuses at start, before it builds a processor."""
    config = VllmConfig()
    # Its presence is enough; a real one needs a model's files.
    config.speculative_config = cast(SpeculativeConfig, object())
    with pytest.raises(ValueError, match="not supported when speculative decoding is enabled"):
        build_logitsprocs(config, torch.device("cpu"), False, False, (FloeLogitsProcessor,))


def test_drafts_of_the_host_take_the_place_of_look_ahead(
    expert: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    config = engine(expert, lookahead=8)._config
    with caplog.at_level("INFO"):
        alone = _beside_drafts(config, cast(VllmConfig, SimpleNamespace(num_speculative_tokens=0)))
        assert alone.expert.lookahead == 8
        assert not caplog.records
        beside = _beside_drafts(config, cast(VllmConfig, SimpleNamespace(num_speculative_tokens=4)))
    assert beside.expert.lookahead == 1
    assert "vLLM drafts 4 tokens a step" in caplog.text


def test_the_maths_needs_no_vllm() -> None:
    code = (
        "import sys, vllm_logits_processor.engine, vllm_logits_processor.build;"
        "sys.exit('vllm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
