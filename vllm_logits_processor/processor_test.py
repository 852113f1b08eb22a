"""How the processor follows vLLM's batch; live engines are in integration_tests."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from vllm_logits_processor import FloeLogitsProcessor
from vllm_logits_processor.engine_test import HOST, Scripted, engine, some_logits


def batch(**changes: Any) -> BatchUpdate:
    fields = {"batch_size": 4, "removed": [], "added": [], "moved": [], **changes}
    return BatchUpdate(**fields)


@pytest.fixture
def expert() -> Scripted:
    return Scripted()


@pytest.fixture
def processor(expert: Scripted) -> FloeLogitsProcessor:
    bare = FloeLogitsProcessor(VllmConfig(), torch.device("cpu"), False)
    bare._engine = engine(expert)
    return bare


def added(row: int, text: bytes, output: list[int], **extra: str) -> tuple[Any, ...]:
    return row, SamplingParams(extra_args=extra or None), HOST.encode(text), output


def changed_rows(processor: FloeLogitsProcessor) -> list[int]:
    logits = some_logits(4)
    processor.apply(logits)
    return [row for row in range(4) if not torch.equal(logits[row], some_logits(4)[row])]


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
    processor: FloeLogitsProcessor, expert: Scripted
) -> None:
    output: list[int] = []
    processor.update_state(batch(added=[added(0, b"The", output)]))
    processor.apply(some_logits(4))
    output.append(HOST.encode(b" cat")[0])
    processor.update_state(None)
    evidence = processor._streams[0].evidence.value
    assert evidence != 0
    processor.update_state(batch(removed=[0]))
    assert not processor._streams
    processor.update_state(batch(added=[added(3, b"The", output)]))
    assert processor._streams[3].evidence.value == evidence
    processor.update_state(batch(removed=[3], added=[added(0, b"The", list(output))]))
    assert processor._streams[0].evidence.value == 0
    assert processor._streams[0].text == b"The cat"


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="accepted is auto, host, fused"):
        FloeLogitsProcessor.validate_params(SamplingParams(extra_args={"floe": "maybe"}))


def test_several_sampling_ranks_are_refused() -> None:
    config = VllmConfig(
        additional_config={
            "floe": {"expert": {"url": "http://127.0.0.1:1/v1", "model": "slm", "tokenizer": "t"}}
        }
    )
    config.parallel_config.tensor_parallel_size = 2
    with pytest.raises(ValueError, match="tensor_parallel_size is 2; accepted is 1"):
        FloeLogitsProcessor(config, torch.device("cpu"), False)


def test_the_maths_needs_no_vllm() -> None:
    code = (
        "import sys, vllm_logits_processor.engine, vllm_logits_processor.assembly;"
        "sys.exit('vllm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
