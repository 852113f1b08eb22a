"""When a request counts as finished."""

from __future__ import annotations

import gc
import json
import logging
import threading
from typing import Any

import pytest
from vllm import SamplingParams

from vllm_logits_processor.request_options import RequestOptions
from vllm_logits_processor.runners.departures import (
    KEPT_STEPS,
    KEPT_STREAMS,
    Departures,
    EndRule,
    Request,
)
from vllm_logits_processor.stream import UNKNOWN_TOKEN, Stream
from vllm_logits_processor.testing.engines import FUSED, HOST, Scripted, engine, stream_of
from vllm_logits_processor.testing.runners import Runner, from_a_worker


def rule(**options: object) -> EndRule:
    params = SamplingParams(**options)  # type: ignore[arg-type]
    params.update_from_generation_config({}, eos_token_id=2)
    return EndRule.of(params, prompt_length=10, max_model_len=20)


@pytest.mark.parametrize(
    ("options", "length", "last", "ends"),
    [
        ({"max_tokens": 5}, 4, [9], False),
        ({"max_tokens": 5}, 5, [9], True),
        ({"max_tokens": 500}, 9, [9], False),
        ({"max_tokens": 500}, 10, [9], True),
        ({"max_tokens": None}, 10, [9], True),
        ({}, 1, [2], True),
        ({"ignore_eos": True}, 1, [2], False),
        ({"stop_token_ids": [7]}, 3, [5, 7, 9], True),
    ],
)
def test_tokens_end_an_answer_as_in_vllms_scheduler(
    options: dict[str, object], length: int, last: list[int], *, ends: bool
) -> None:
    assert rule(**{"max_tokens": 9, **options}).ends(length, last) is ends


@pytest.fixture
def ended() -> list[Stream]:
    return []


@pytest.fixture
def departures(ended: list[Stream], monkeypatch: pytest.MonkeyPatch) -> Departures:
    parts = engine(Scripted())
    monkeypatch.setattr(parts, "end_stream", ended.append)
    return Departures(parts)


def streams(count: int) -> list[Stream]:
    parts = engine(Scripted())
    return [stream_of(parts, b"The") for _ in range(count)]


def test_one_who_comes_back_in_time_is_not_ended(
    departures: Departures, ended: list[Stream]
) -> None:
    first, second = streams(2)
    departures.leave(first)
    departures.leave(second)
    for _ in range(KEPT_STEPS):
        departures.step()
    request = returning(output_ids=second.output_ids)
    assert departures.take(request) is second
    assert departures.take(request) is None
    departures.step()
    departures.end_all()
    assert len(ended) == 1
    assert ended[0] is first


def returning(**changes: Any) -> Request:
    """Return a request with the text "The cat"."""
    values = {
        "prompt_ids": HOST.encode(b"The"),
        "output_ids": HOST.encode(b" cat"),
        "options": FUSED,
        "greedy": False,
    }
    return Request(**{**values, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_ids": HOST.encode(b"12")},
        {"prompt_ids": None},
        {"output_ids": HOST.encode(b" sat")},
        {"output_ids": []},
        {"output_ids": [UNKNOWN_TOKEN]},
        {"options": RequestOptions(mode="fused", expert_model="cluster-1")},
        {"greedy": True},
    ],
)
def test_a_stream_goes_on_for_the_same_request_alone(changes: dict[str, Any]) -> None:
    (stream,) = streams(1)
    stream.output_ids += HOST.encode(b" cat")
    assert returning(**changes).former([stream]) is None
    assert returning().former([stream]) is stream


def test_of_streams_with_one_prompt_the_one_that_knows_most_goes_on() -> None:
    none, one, unread = streams(3)
    answer = HOST.encode(b" cat 12 sat")
    one.output_ids += answer[:1]
    unread.output_ids += [*answer[:2], UNKNOWN_TOKEN]
    for order in ([none, one, unread], [unread, one, none]):
        assert returning(output_ids=answer).former(order) is unread
        assert returning(output_ids=answer[:1]).former(order) is one


def test_a_stream_that_has_read_what_was_taken_back_does_not_go_on() -> None:
    (stream,) = streams(1)
    answer = HOST.encode(b" cat 12 sat")
    stream.output_ids += answer[:2]
    stream.advance()
    del stream.output_ids[1:]
    assert returning(output_ids=answer).former([stream]) is None


def test_no_more_than_some_are_kept(departures: Departures, ended: list[Stream]) -> None:
    away = streams(KEPT_STREAMS + 2)
    for stream in away:
        departures.leave(stream)
    departures.step()
    assert [id(stream) for stream in ended] == [id(stream) for stream in away[:2]]
    departures.end_all()
    assert len(ended) == len(away)


def idle_report(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event that is set when the idle thread has reported the streams."""
    reported = threading.Event()
    report_all = runner.batch._departures.report_all

    def reporting() -> None:
        report_all()
        reported.set()

    monkeypatch.setattr(runner.batch._departures, "report_all", reporting)
    return reported


def test_those_who_are_aborted_while_nobody_else_is_there_are_reported(
    expert: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(engine(expert), idle_s=0.5)
    reported = idle_report(runner, monkeypatch)
    expert.mode = "silent"
    runner.add(0, b"The")
    runner.step(0)
    stream = runner.batch.streams[0]
    # vLLM's last call is a step without requests; it does not name those that have left.
    runner.sample(0, 5)
    runner.processor.apply_staged_writes()
    assert stream.pending is not None
    assert reported.wait(10)
    assert runner.ended == [stream]
    assert stream.pending is None
    assert stream.summary.tokens == {}


@pytest.mark.parametrize("method", ["execute_model", "sample_tokens"])
def test_a_forward_pass_may_take_longer_than_a_pause(
    expert: Scripted, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    runner = Runner(engine(expert), idle_s=0.2)
    reported = idle_report(runner, monkeypatch)

    def computing() -> None:
        runner.add(0, b"The")
        runner.step(0)
        runner.sample(0, 5)
        runner.processor.apply_staged_writes()
        assert not reported.wait(0.8)
        assert runner.ended == []

    from_a_worker(method, "vllm.v1.worker.gpu.model_runner")(computing)
    # It is over without a decision: there were no requests in it.
    assert reported.wait(10)
    assert runner.ended == [runner.batch.streams[0]]


@pytest.mark.parametrize("faulty", [False, True])
def test_a_step_ends_with_its_decision(
    expert: Scripted, monkeypatch: pytest.MonkeyPatch, *, faulty: bool
) -> None:
    runner = Runner(engine(expert), idle_s=0.1)
    reported = idle_report(runner, monkeypatch)

    def fault(*arguments: object) -> None:
        raise MemoryError

    if faulty:
        monkeypatch.setattr(runner.batch._engine, "decide", fault)

    def step_and_rest() -> None:
        runner.add(0, b"The")
        runner.step(0)
        assert reported.wait(10)

    from_a_worker("execute_model", "vllm.v1.worker.gpu.model_runner")(step_and_rest)
    assert runner.ended == [runner.batch.streams[0]]


def test_one_who_was_paused_goes_on_and_is_reported_in_two_parts(
    expert: Scripted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts = engine(expert)
    end = parts.end_stream
    runner = Runner(parts, idle_s=0.02)
    parts.end_stream = end  # type: ignore[method-assign]
    reported = idle_report(runner, monkeypatch)
    runner.add(0, b"The")
    with caplog.at_level(logging.INFO, logger="vllm_logits_processor.observe"):
        runner.step(0)
        assert reported.wait(10)
        assert runner.step(0).all()
        runner.add(0, b"12", floe="host")
        runner.step(0)
        for _ in range(KEPT_STEPS):
            runner.step(0)
    # On some processors vLLM logs a line of its own when the configuration is built.
    ours = [line for line in caplog.records if line.name == "vllm_logits_processor.observe"]
    assert [json.loads(line.message)["tokens"] for line in ours] == 2 * [{"fused": 1}]


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
