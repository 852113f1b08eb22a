from __future__ import annotations

import logging

import pytest
import torch

from floe_plugins.errors import ConfigError
from vllm_logits_processor.fail_open import MOST_LOST, REST_S, FailOpen, out_of_memory


class Told:
    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []
        self.fusing: list[bool] = []

    def observe_fault(self, *, stage: str, reason: str) -> None:
        self.faults.append((stage, reason))

    def observe_fusing(self, *, fusing: bool) -> None:
        self.fusing.append(fusing)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fallback(told: Told, clock: Clock) -> FailOpen:
    return FailOpen(told=told, clock=clock)


def broken(error: Exception) -> int:
    raise error


def step(fallback: FailOpen, error: Exception | None = None) -> int:
    """Run a step of two parts, of which the first may fail; return what the second brings."""
    fallback.next_step()
    if error is not None:
        fallback.run(lambda: broken(error), otherwise=0, stage="begin")

    def decide() -> int:
        fallback.worked()
        return 1

    return fallback.run(decide, otherwise=0, stage="decide")


def test_a_fault_costs_its_step_and_is_counted(
    fallback: FailOpen, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    undone: list[bool] = []
    with caplog.at_level(logging.ERROR):
        assert step(fallback) == 1
        assert step(fallback, KeyError("4111 1111 1111 1111")) == 0
        assert step(fallback) == 1
        fallback.run(
            lambda: broken(ValueError()),
            otherwise=0,
            stage="write",
            undo=lambda: undone.append(True),
        )
    assert undone == [True]
    assert told.faults == [("begin", "KeyError"), ("write", "ValueError")]
    assert told.fusing == []
    first, _ = (record.getMessage() for record in caplog.records)
    assert "KeyError in fallback_test.py" in first
    assert "4111" not in caplog.text


def test_a_fault_that_comes_back_ends_fusion_and_says_so_once(
    fallback: FailOpen, told: Told, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        for _ in range(MOST_LOST - 1):
            step(fallback, IndexError())
        assert step(fallback) == 1
        for _ in range(MOST_LOST):
            assert not fallback.ended
            assert step(fallback, IndexError()) == 0
        clock.now += 10 * REST_S
        assert step(fallback) == 0
    assert fallback.ended
    assert told.fusing == [False]
    assert len(told.faults) == 2 * MOST_LOST - 1
    assert [line.getMessage().split()[0:4] for line in caplog.records] == [
        ["A", "fault", "costs", "one"],
        ["Floe", "fuses", "no", "more"],
    ]


def test_a_fault_in_writing_comes_back_though_deciding_works(fallback: FailOpen) -> None:
    for _ in range(MOST_LOST):
        assert not fallback.ended
        assert step(fallback) == 1
        fallback.run(lambda: broken(IndexError()), otherwise=0, stage="write")
    assert fallback.ended


def test_want_of_memory_makes_fusion_rest(fallback: FailOpen, told: Told, clock: Clock) -> None:
    for _ in range(MOST_LOST):
        step(fallback, torch.OutOfMemoryError())
    assert step(fallback) == 0
    clock.now += REST_S
    assert step(fallback) == 1
    assert told.fusing == [False, True]


def test_a_fault_of_one_request_leaves_the_step_to_the_others(fallback: FailOpen) -> None:
    for _ in range(10 * MOST_LOST):
        fallback.next_step()
        assert not fallback.aside(lambda: broken_request(), stage="open")
        assert fallback.run(lambda: worked(fallback), otherwise=0, stage="decide") == 1
    assert not fallback.ended


def broken_request() -> None:
    raise IndexError


def worked(fallback: FailOpen) -> int:
    fallback.worked()
    return 1


def test_one_place_is_logged_once_a_minute(
    fallback: FailOpen, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            step(fallback, IndexError())
            step(fallback)
        clock.now += 61
        step(fallback, IndexError())
    first, second = (record.getMessage() for record in caplog.records)
    assert "more times" not in first
    assert "It came 4 more times" in second


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_want_of_memory_is_told_from_other_faults(error: Exception, *, short: bool) -> None:
    assert out_of_memory(error) is short


def test_what_is_meant_to_stop_the_server_stops_it(fallback: FailOpen) -> None:
    refused = ConfigError("floe: router is 'x'; accepted are a, b.")
    with pytest.raises(ConfigError, match="accepted"):
        fallback.run(lambda: broken(refused), otherwise=0, stage="begin")
    assert step(fallback) == 1
