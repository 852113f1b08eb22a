"""The reader of V2's slots, on pinned memory that kernels write, beside a long forward pass."""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import torch
import triton
import triton.language as tl

from integration_tests.gpu_check.sizes import Sizes
from vllm_logits_processor.runners.slot_tokens import DeviceReader

LENGTH = 64
#: The forward pass lasts many times as long as the sampling before it.
_SAMPLING_MS, _FORWARD_MS = 5.0, 200.0


@triton.jit
def _append(tokens, lengths, LENGTH: tl.constexpr):
    """Append a token to each slot: its number and its place."""
    slot = tl.program_id(0)
    length = tl.load(lengths + slot)
    tl.store(tokens + slot * LENGTH + length, slot * 1000 + length)
    tl.store(lengths + slot, length + 1)


def check(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Read new tokens while the device computes; compare them with those that were written."""
    cases = [one_case(device, slots, steps=sizes.steps) for slots in sizes.rows]
    return {"forward_ms": _FORWARD_MS, "cases": cases}


def failures(found: dict[str, Any]) -> list[str]:
    """Return what is not as it must be."""
    said = []
    for case in found["cases"]:
        if not case["right"]:
            said.append(f"{case['slots']} slots: other tokens than were written")
        if case["longest_ms"] > found["forward_ms"] / 2:
            said.append(f"{case['slots']} slots: reading took {case['longest_ms']:.0f} ms")
    return said


def one_case(device: torch.device, slots: int, *, steps: int) -> dict[str, Any]:
    """Append a token to each slot at every step; read it behind a sleeping kernel."""
    on_gpu = device.type == "cuda"
    tokens = torch.zeros((slots, LENGTH), dtype=torch.int32, pin_memory=on_gpu)
    lengths = torch.zeros(slots, dtype=torch.int32, device=device)
    host = tokens.numpy()
    states: Any = SimpleNamespace(
        device=device,
        all_token_ids=SimpleNamespace(gpu=tokens),
        total_len=SimpleNamespace(gpu=lengths),
    )
    reader = DeviceReader(states, host=host)
    right, took = True, []
    for step in range(min(steps, 8)):
        sleep(device, _SAMPLING_MS)
        _append[(slots,)](tokens, lengths, LENGTH=LENGTH)
        reader.begin(dict.fromkeys(range(slots), (step, 1)))
        sleep(device, _FORWARD_MS)
        begun = time.perf_counter()
        read = reader.finish()
        took.append((time.perf_counter() - begun) * 1000)
        right &= read == {slot: [slot * 1000 + step] for slot in range(slots)}
    if on_gpu:
        torch.cuda.synchronize()
    return {"slots": slots, "right": right, "longest_ms": max(took)}


def sleep(device: torch.device, milliseconds: float) -> None:
    """Keep the device busy; a CPU's work is done when its call returns."""
    if device.type == "cuda":
        torch.cuda._sleep(int(milliseconds * cycles_per_ms()))


def cycles_per_ms() -> float:
    """Return the cycles of a sleeping kernel in a millisecond, measured once."""
    if not _CYCLES:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        torch.cuda._sleep(1_000_000)
        events[0].record()
        torch.cuda._sleep(50_000_000)
        events[1].record()
        events[1].synchronize()
        _CYCLES.append(50_000_000 / events[0].elapsed_time(events[1]))
    return _CYCLES[0]


_CYCLES: list[float] = []
