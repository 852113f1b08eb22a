from __future__ import annotations

import logging

import pytest
import torch

from floe_plugins.errors import ConfigError
from vllm_logits_processor.fail_open import MOST_LOST, PAUSE_S, FailOpen, out_of_memory


class Observer:
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
def observer() -> Observer:
    return Observer()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fail_open(observer: Observer, clock: Clock) -> FailOpen:
    return FailOpen(observer=observer, clock=clock)


def broken(error: Exception) -> int:
    raise error


def step(fail_open: FailOpen, error: Exception | None = None) -> int:
    """Run a step of two parts, the first of which may fail; return the second's result."""
    fail_open.next_step()
    if error is not None:
        fail_open.run(lambda: broken(error), otherwise=0, stage="begin")

    def decide() -> int:
        fail_open.worked()
        return 1

    return fail_open.run(decide, otherwise=0, stage="decide")


def test_a_fault_costs_its_step_and_is_counted(
    fail_open: FailOpen, observer: Observer, caplog: pytest.LogCaptureFixture
) -> None:
    undone: list[bool] = []
    with caplog.at_level(logging.ERROR):
        assert step(fail_open) == 1
        assert step(fail_open, KeyError("4111 1111 1111 1111")) == 0
        assert step(fail_open) == 1
        fail_open.run(
            lambda: broken(ValueError()),
            otherwise=0,
            stage="write",
            undo=lambda: undone.append(True),
        )
    assert undone == [True]
    assert observer.faults == [("begin", "KeyError"), ("write", "ValueError")]
    assert observer.fusing == []
    first, _ = (record.getMessage() for record in caplog.records)
    assert "KeyError in fail_open_test.py" in first
    assert "4111" not in caplog.text


def test_a_fault_that_comes_back_ends_fusion_and_says_so_once(
    fail_open: FailOpen, observer: Observer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        for _ in range(MOST_LOST - 1):
            step(fail_open, IndexError())
        assert step(fail_open) == 1
        for _ in range(MOST_LOST):
            assert not fail_open.ended
            assert step(fail_open, IndexError()) == 0
        clock.now += 10 * PAUSE_S
        assert step(fail_open) == 0
    assert fail_open.ended
    assert observer.fusing == [False]
    assert len(observer.faults) == 2 * MOST_LOST - 1
    assert [line.getMessage().split()[0:4] for line in caplog.records] == [
        ["A", "fault", "costs", "one"],
        ["Floe", "fuses", "no", "more"],
    ]


def test_a_fault_in_writing_comes_back_though_deciding_works(fail_open: FailOpen) -> None:
    for _ in range(MOST_LOST):
        assert not fail_open.ended
        assert step(fail_open) == 1
        fail_open.run(lambda: broken(IndexError()), otherwise=0, stage="write")
    assert fail_open.ended


def test_want_of_memory_pauses_fusion(
    fail_open: FailOpen, observer: Observer, clock: Clock
) -> None:
    for _ in range(MOST_LOST):
        step(fail_open, torch.OutOfMemoryError())
    assert step(fail_open) == 0
    clock.now += PAUSE_S
    assert step(fail_open) == 1
    assert observer.fusing == [False, True]


def test_a_fault_of_one_request_leaves_the_step_to_the_others(fail_open: FailOpen) -> None:
    for _ in range(10 * MOST_LOST):
        fail_open.next_step()
        assert not fail_open.aside(lambda: broken_request(), stage="open")
        assert fail_open.run(lambda: worked(fail_open), otherwise=0, stage="decide") == 1
    assert not fail_open.ended


def broken_request() -> None:
    raise IndexError


def worked(fail_open: FailOpen) -> int:
    fail_open.worked()
    return 1


def test_one_place_is_logged_once_a_minute(
    fail_open: FailOpen, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            step(fail_open, IndexError())
            step(fail_open)
        clock.now += 61
        step(fail_open, IndexError())
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
def test_want_of_memory_is_distinguished_from_other_faults(
    error: Exception, *, short: bool
) -> None:
    assert out_of_memory(error) is short


def test_what_is_meant_to_stop_the_server_stops_it(fail_open: FailOpen) -> None:
    refused = ConfigError("floe: router is 'x'; accepted are a, b.")
    with pytest.raises(ConfigError, match="accepted"):
        fail_open.run(lambda: broken(refused), otherwise=0, stage="begin")
    assert step(fail_open) == 1
