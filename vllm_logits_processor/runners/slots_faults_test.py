"""Steps of V2's slots that are lost to a fault, and the steps after them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from vllm_logits_processor.testing.engines import EXPERT, HOST, Scripted, engine
from vllm_logits_processor.testing.runners import Runner, prompts_of


@pytest.mark.parametrize("where", ["begin", "finish"])
def test_tokens_that_could_not_be_read_are_read_later(
    runner: Runner, expert: Scripted, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    runner.add(0, b"The")
    runner.step(0)

    def fault(*arguments: object) -> None:
        raise MemoryError

    wanted: list[dict[int, tuple[int, int]]] = []
    begin = runner.batch._reader.begin
    for lost in range(2):
        runner.sample(0, (HOST.encode(b" cat")[0], 5)[lost])
        monkeypatch.setattr(runner.batch._reader, where, fault)
        assert not runner.step(0).any()
        monkeypatch.undo()
    runner.sample(0, 5)

    def noting(slots: Mapping[int, tuple[int, int]]) -> None:
        wanted.append(dict(slots))
        begin(slots)

    monkeypatch.setattr(runner.batch._reader, "begin", noting)
    assert runner.step(0).all()
    # A reader that gets an upper limit, like a device's, returns all of the tokens.
    ((known, most),) = (each[0] for each in wanted)
    assert most >= 3
    assert known == len(HOST.encode(b"The"))
    stream = runner.batch.streams[0]
    assert len(stream.output_ids) == 3
    assert prompts_of(expert.calls[-1]) == [EXPERT.encode(bytes(stream.text))]


def test_slots_are_followed_through_lost_steps(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.add(0, b"The")
    runner.add(1, b"12")
    runner.step(0, 1)

    def fault(*arguments: object, **options: object) -> None:
        raise MemoryError

    for method in ("begin_step", "decide", "new_stream", "end_stream"):
        monkeypatch.setattr(runner.batch._engine, method, fault)
    runner.add(1, b"A cat")
    assert not runner.step(0, 1).any()
    monkeypatch.undo()
    assert (runner.step(1, 0) > 0).tolist() == [True, True]
    assert runner.batch.streams[1].text == b"A cat"


def test_forks_of_a_lost_step_let_go_of_their_calls(
    expert: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(engine(expert), drafts=True)
    left: list[Any] = []
    monkeypatch.setattr(runner.batch._engine._requests, "abandon", left.append)

    def fault(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(runner.batch._engine, "_fuse", fault)
    runner.add(0, b"The")
    assert not runner.step(0, drafts={0: [5, 6]}).any()
    assert [stream.position for stream in left] == [0, 1, 2]
    assert runner.batch._engine._forks == []


def test_a_batch_that_is_verified_in_parts_is_fused_in_all_of_them(runner: Runner) -> None:
    """Each part comes with the slots of the whole batch."""
    runner.add(0, b"The")
    runner.add(1, b"12")
    runner.step(0, 1)
    for slot in range(2):
        runner.sample(slot, 5)
    assert runner.step(0, 1).all()
    again = runner.batch.decide
    for _ in range(2):
        cells = again(torch.zeros(2, len(HOST)), runner.context)
        assert cells.index.numel()
    runner.sample(0, 5)
    assert runner.step(0).all()
