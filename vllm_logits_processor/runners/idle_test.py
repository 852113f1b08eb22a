"""Streams that are told of while vLLM's V2 runner has no step to do."""

from __future__ import annotations

import gc
import json
import logging
import threading

import pytest

from vllm_logits_processor.engine_test import Scripted, engine
from vllm_logits_processor.runners.departures import KEPT_STEPS
from vllm_logits_processor.runners.slots_test import Runner


@pytest.fixture
def expert() -> Scripted:
    return Scripted()


def settled(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event for when the idle thread has told of the streams."""
    told = threading.Event()
    settle = runner.batch._departures.settle

    def telling() -> None:
        settle()
        told.set()

    monkeypatch.setattr(runner.batch._departures, "settle", telling)
    return told


def test_those_who_are_aborted_while_nobody_else_is_there_are_told_of(
    expert: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(engine(expert), idle_s=0.02)
    told = settled(runner, monkeypatch)
    expert.mode = "silent"
    runner.add(0, b"The")
    runner.step(0)
    stream = runner.batch.streams[0]
    # vLLM's last word is a step without requests; it says nothing of who has gone.
    runner.sample(0, 5)
    runner.processor.apply_staged_writes()
    assert stream.pending is not None
    assert told.wait(10)
    assert runner.ended == [stream]
    assert stream.pending is None
    assert stream.summary.tokens == {}


def test_one_who_was_paused_goes_on_and_is_told_of_in_two_parts(
    expert: Scripted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts = engine(expert)
    end = parts.end_stream
    runner = Runner(parts, idle_s=0.02)
    parts.end_stream = end  # type: ignore[method-assign]
    told = settled(runner, monkeypatch)
    runner.add(0, b"The")
    with caplog.at_level(logging.INFO, logger="vllm_logits_processor.summary"):
        runner.step(0)
        assert told.wait(10)
        assert runner.step(0).all()
        runner.add(0, b"12", floe="host")
        runner.step(0)
        for _ in range(KEPT_STEPS):
            runner.step(0)
    assert [json.loads(line.message)["tokens"] for line in caplog.records] == 2 * [{"fused": 1}]


def test_the_idle_thread_ends_with_its_batch(expert: Scripted) -> None:
    runner = Runner(engine(expert), idle_s=0.02)
    (thread,) = [
        each
        for each in threading.enumerate()
        if each.name == "floe-idle" and each is runner.batch._watch.thread
    ]
    del runner
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
