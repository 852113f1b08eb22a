"""How the processor follows V2's slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from vllm import SamplingParams
from vllm.config import VllmConfig

from vllm_logits_processor import FloeLogitsProcessor
from vllm_logits_processor.runners.departures import KEPT_STEPS
from vllm_logits_processor.testing.engines import EXPERT, HOST, Scripted, engine
from vllm_logits_processor.testing.runners import SLOTS, Runner, prompts_of


def test_without_configuration_nothing_is_wanted(runner: Runner) -> None:
    processor = FloeLogitsProcessor(VllmConfig(), None)
    assert not processor.add_request(0, SamplingParams())
    processor.apply_staged_writes()
    logits = torch.zeros(1, 3)
    assert processor.apply(logits) is logits
    assert not logits.any()


def test_the_call_starts_before_the_forward_pass(runner: Runner, expert: Scripted) -> None:
    assert runner.add(2, b"The")
    runner.processor.apply_staged_writes()
    assert prompts_of(expert.calls[0]) == [EXPERT.encode(b"The")]


def test_rows_are_found_by_slot_in_any_order(runner: Runner) -> None:
    runner.add(0, b"The")
    assert not runner.add(1, b"The", floe="host")
    runner.add(3, b"12")
    assert (runner.step(3, 1, 0) > 0).tolist() == [True, False, True]
    assert (runner.step(1, 0) > 0).tolist() == [False, True]


def test_a_call_carries_what_was_sampled(runner: Runner, expert: Scripted) -> None:
    runner.add(0, b"The")
    runner.step(0)
    runner.sample(0, *HOST.encode(b" cat"))
    runner.step(0)
    assert prompts_of(expert.calls[-1]) == [EXPERT.encode(b"The cat")]


def test_a_slot_that_is_taken_again_begins_anew(runner: Runner, expert: Scripted) -> None:
    runner.add(0, b"The")
    runner.step(0)
    runner.sample(0, 5)
    runner.add(0, b"12")
    runner.step(0)
    assert prompts_of(expert.calls[-1]) == [EXPERT.encode(b"12")]
    assert not runner.add(0, b"12", floe="host")
    assert (runner.step(0) > 0).tolist() == [False]


@pytest.mark.parametrize("options", [{"max_tokens": 1}, {"stop_token_ids": [7]}, {}])
def test_a_slot_that_is_given_away_at_once_ends_what_is_finished(
    runner: Runner, options: dict[str, Any]
) -> None:
    """vLLM frees and fills a slot in one step, before the last token has been read."""
    runner.add(0, b"The", **options)
    runner.step(0)
    stream = runner.batch.streams[0]
    runner.sample(0, 7)
    runner.add(0, b"12")
    runner.step(0)
    assert runner.ended == ([stream] if options else [])
    assert stream.output_ids == [7]


def test_a_finished_answer_is_asked_about_no_more(runner: Runner, expert: Scripted) -> None:
    runner.add(0, b"The", max_tokens=1)
    runner.add(1, b"The", stop_token_ids=[7])
    runner.add(2, b"The")
    runner.step(0, 1, 2)
    streams = runner.batch.streams
    for slot in range(3):
        runner.sample(slot, 7)
    calls = len(expert.calls)
    runner.processor.apply_staged_writes()
    assert runner.ended == [streams[0], streams[1]]
    assert len(prompts_of(expert.calls[calls])) == 1


def test_one_who_is_absent_is_asked_about_no_more_and_then_finished(
    runner: Runner, expert: Scripted
) -> None:
    runner.add(0, b"The")
    runner.add(1, b"12")
    runner.step(0, 1)
    stream = runner.batch.streams[1]
    runner.sample(1, 5)
    for _ in range(2):
        runner.sample(0, 5)
        runner.step(0)
    # In its first step without a row, it is not known yet that the request has none.
    assert [len(prompts_of(call)) for call in expert.calls] == [2, 2, 1]
    for _ in range(KEPT_STEPS):
        runner.step(0)
    assert runner.ended == [stream]
    assert (runner.step(0, 1) > 0).tolist() == [True, False]


def test_one_who_sits_out_goes_on(runner: Runner) -> None:
    runner.add(0, b"The")
    runner.add(1, b"12")
    runner.step(0, 1)
    stream = runner.batch.streams[1]
    for _ in range(3):
        runner.step(0)
    assert (runner.step(0, 1) > 0).tolist() == [True, True]
    assert runner.batch.streams[1] is stream
    assert runner.ended == []


@pytest.mark.parametrize("taken", [False, True])
def test_a_preempted_request_comes_back_as_it_was(runner: Runner, *, taken: bool) -> None:
    runner.add(1, b"The")
    runner.step(1)
    runner.sample(1, *HOST.encode(b" cat")[:1])
    runner.step(1)
    stream, answer = runner.batch.streams[1], HOST.encode(b" cat")[:1]
    assert stream.evidence.value != 0
    runner.add(0, b"12")
    runner.step(0)
    if taken:
        runner.add(1, b"12 12")
        runner.step(0, 1)
    # One more token had been sampled when it left, but not read.
    runner.add(2, b"The", [*answer, 9])
    runner.step(0, 2)
    assert runner.batch.streams[2] is stream
    assert stream.output_ids == [*answer, 9]
    assert 1 not in runner.batch.streams or taken
    assert runner.ended == []


def test_a_bias_that_forbids_a_token_reaches_the_stream(runner: Runner) -> None:
    runner.add(0, b"The", logit_bias={5: -100.0, 7: -1.0})
    runner.step(0)
    assert runner.batch.streams[0].unwanted == (5,)


def test_a_live_twin_keeps_its_stream(runner: Runner) -> None:
    """Answers to one prompt may be equal; only one without a row can have returned."""
    runner.add(0, b"The")
    runner.step(0)
    runner.sample(0, 5)
    runner.step(0)
    stream = runner.batch.streams[0]
    runner.add(1, b"The", [5])
    runner.step(0, 1)
    assert runner.batch.streams[0] is stream
    assert runner.batch.streams[1] is not stream
    assert runner.batch.streams[1].text == stream.text


def test_a_chunk_of_a_prompt_is_left_alone(runner: Runner, expert: Scripted) -> None:
    runner.add(0, b"The cat sat")
    length = int(runner.states.prefill_len.np[0])
    assert (runner.step(0, seen={0: length - 2}) > 0).tolist() == [False]
    assert (runner.step(0, seen={0: length}) > 0).tolist() == [True]
    assert len(expert.calls) == 1


def test_a_prompt_with_embeddings_is_declined(expert: Scripted) -> None:
    runner = Runner(engine(expert), embeddings=True)
    runner.add(0, [0] * 5)
    runner.add(1, [*HOST.encode(b"The"), 0, 0])
    runner.add(2, b"The")
    assert (runner.step(0, 1, 2) > 0).tolist() == [False, False, True]
    assert len(prompts_of(expert.calls[0])) == 1


def test_every_drafted_row_is_asked_about_with_its_drafts(expert: Scripted) -> None:
    runner = Runner(engine(expert), drafts=True)
    runner.add(0, b"The")
    runner.add(1, b"12", floe="host")
    runner.add(2, b"The cat")
    drafts = {0: HOST.encode(b" cat 12")[:2], 1: [5], 2: []}
    assert len(drafts[0]) == 2
    changed = runner.step(2, 1, 0, drafts=drafts) > 0
    assert changed.tolist() == [True, False, False, True, True, True]
    asked = [prompt for call in expert.calls for prompt in prompts_of(call)]
    for before in range(3):
        text = b"The" + HOST.decode(drafts[0][:before])
        assert EXPERT.encode(text) in asked
    assert runner.batch.streams[0].output_ids == []


@pytest.mark.parametrize("covers", [0, 3])
def test_drafts_and_the_text_before_them_share_a_call(expert: Scripted, covers: int) -> None:
    runner = Runner(engine(expert, covers=covers), drafts=True)
    runner.add(0, b"The")
    runner.processor.apply_staged_writes()
    # A prompt is read while the host reads it.
    assert [prompts_of(call) for call in expert.calls] == [[EXPERT.encode(b"The")]]
    runner.step(0)
    assert len(expert.calls) == 1
    runner.sample(0, *HOST.encode(b" cat"))
    drafts = HOST.encode(b" 12 sat")[:2]
    assert (runner.step(0, drafts={0: drafts}) > 0).all()
    prompts = prompts_of(expert.calls[1])
    assert len(expert.calls) == 2
    for before in range(3):
        assert EXPERT.encode(b"The cat" + HOST.decode(drafts[:before])) in prompts
    assert len(prompts) == len({tuple(prompt) for prompt in prompts})


def test_a_draft_that_is_not_there_is_left_alone(expert: Scripted) -> None:
    runner = Runner(engine(expert), drafts=True)
    runner.add(0, b"The")
    changed = runner.step(0, drafts={0: [-1, -1]}) > 0
    assert changed.tolist() == [True, False, False]


def test_several_tokens_of_a_step_are_taken_in_up_to_the_end(expert: Scripted) -> None:
    runner = Runner(engine(expert), drafts=True)
    runner.add(0, b"The", stop_token_ids=[7])
    runner.step(0, drafts={0: [5, 7]})
    runner.sample(0, 5, 7, 9)
    runner.processor.apply_staged_writes()
    assert len(runner.ended) == 1


class Lookups(dict[int, Any]):
    """A mapping of slots that counts how often it is read."""

    def __init__(self, *items: Any) -> None:
        super().__init__(*items)
        self.read = 0

    def get(self, *arguments: Any) -> Any:
        self.read += 1
        return super().get(*arguments)

    def items(self) -> Any:
        self.read += len(self)
        return super().items()

    def values(self) -> Any:
        self.read += len(self)
        return super().values()


@pytest.mark.parametrize("dead", [0, SLOTS - 1])
def test_a_slot_that_is_not_in_the_batch_costs_a_step_nothing(runner: Runner, dead: int) -> None:
    for slot in range(1 + dead):
        runner.add(slot, b"The")
    for _ in range(3):
        runner.step(0)
        runner.sample(0, 5)
    assert len(runner.batch._slots) == 1 + dead
    asked: list[int] = []
    begin = runner.batch._reader.begin

    def noting(wanted: Mapping[int, tuple[int, int]]) -> None:
        asked.extend(wanted)
        begin(wanted)

    runner.batch._reader.begin = noting  # type: ignore[method-assign]
    slots = runner.batch._slots = Lookups(runner.batch._slots)
    runner.step(0)
    assert asked == [0]
    # One read each: at the beginning, for its tokens, for its call, for its row.
    assert slots.read <= 5
