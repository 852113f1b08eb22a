from __future__ import annotations

import json
import logging

import pytest

from vllm_logits_processor.summary import StreamSummary
from vllm_logits_processor.trace import TraceLine


def line(outcome: str = "fused", *, position: int = 0, **figures: float | int | bool) -> TraceLine:
    return TraceLine(label="a secret", position=position, outcome=outcome, **figures)  # type: ignore[arg-type]


def test_a_stream_is_summed_up() -> None:
    summary = StreamSummary()
    summary.add(line(expert_weight=0.25, waited_ms=4.0, error_bound=0.1, sent_bytes=100))
    summary.add(line(expert_weight=0.75, error_bound=0.3, followed=True, received_bytes=50))
    summary.add(line("late", waited_ms=20.0))
    assert summary.as_dict() == {
        "event": "floe_stream_finished",
        "tokens": {"fused": 2, "late": 1},
        "weight_mean": 0.5,
        "weight_min": 0.25,
        "weight_max": 0.75,
        "constant_weight": False,
        "followed_share": 0.5,
        "waited_ms": 24.0,
        "longest_wait_ms": 20.0,
        "sent_bytes": 100,
        "received_bytes": 50,
        "error_bound_mean": pytest.approx(0.2),
        "error_bound_max": 0.3,
    }


def test_a_stream_without_the_expert_has_figures_too() -> None:
    summary = StreamSummary()
    assert summary.as_dict()["tokens"] == {}
    summary.add(line("private"))
    figures = summary.as_dict()
    assert (figures["weight_mean"], figures["weight_max"], figures["constant_weight"]) == (
        0,
        0,
        False,
    )


@pytest.mark.parametrize(
    ("weights", "constant"),
    [([0.5], False), ([0.5, 0.5, 0.5], True), ([0.5, 0.5, 0.4999], False), ([0.0, 0.0], True)],
)
def test_a_router_that_gives_one_weight_shows(weights: list[float], constant: bool) -> None:
    summary = StreamSummary()
    for weight in weights:
        summary.add(line(expert_weight=weight))
    assert summary.constant_weight is constant


def test_the_log_line_is_one_json_object_without_text(caplog: pytest.LogCaptureFixture) -> None:
    summary = StreamSummary()
    summary.add(line(expert_weight=0.25))
    with caplog.at_level(logging.INFO):
        summary.log()
    (record,) = caplog.records
    message = record.getMessage()
    assert record.levelno == logging.INFO
    assert json.loads(message) == summary.as_dict()
    assert "\n" not in message
    assert "secret" not in message
