"""When a request counts as finished."""

from __future__ import annotations

import pytest
from vllm import SamplingParams

from vllm_logits_processor.engine_test import Scripted, engine, stream_of
from vllm_logits_processor.runners.departures import (
    KEPT_STEPS,
    KEPT_STREAMS,
    Departures,
    EndRule,
)
from vllm_logits_processor.stream import Stream


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
    assert departures.take(lambda stream: stream is second) is second
    assert departures.take(lambda stream: stream is second) is None
    departures.step()
    departures.end_all()
    assert len(ended) == 1
    assert ended[0] is first


def test_no_more_than_some_are_kept(departures: Departures, ended: list[Stream]) -> None:
    away = streams(KEPT_STREAMS + 2)
    for stream in away:
        departures.leave(stream)
    departures.step()
    assert [id(stream) for stream in ended] == [id(stream) for stream in away[:2]]
    departures.end_all()
    assert len(ended) == len(away)
