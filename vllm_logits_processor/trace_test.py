from __future__ import annotations

import json
from pathlib import Path

import pytest

from vllm_logits_processor.trace import OUTCOMES, Trace, TraceLine


def test_lines_are_on_disk_when_write_returns(tmp_path: Path) -> None:
    trace = Trace(str(tmp_path / "trace.jsonl"))
    first = TraceLine(label=None, position=0, outcome="late", waited_ms=20.0)
    second = TraceLine(
        label="mine",
        position=1,
        outcome="fused",
        expert_weight=0.5,
        error_bound=0.02,
        followed=True,
    )
    trace.write([first])
    trace.write([second])
    lines = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["late", "fused"]
    assert lines[1] == {
        "label": "mine",
        "position": 1,
        "outcome": "fused",
        "expert_weight": 0.5,
        "waited_ms": 0.0,
        "sent_bytes": 0,
        "received_bytes": 0,
        "error_bound": 0.02,
        "followed": True,
    }


def test_a_file_that_cannot_be_written_ends_the_trace_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it raised, the fallback would end fusion for all requests."""
    trace = Trace(str(tmp_path))
    for position in range(3):
        trace.write([TraceLine(label=None, position=position, outcome="fused")])
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert f"{tmp_path} cannot be written (Is a directory)" in caplog.text


def test_without_a_file_nothing_is_written() -> None:
    Trace(None).write([TraceLine(label=None, position=0, outcome="fused")])


def test_every_outcome_is_explained() -> None:
    explained = TraceLine.__doc__ or ""
    assert all(f"``{outcome}``" in explained for outcome in OUTCOMES)
