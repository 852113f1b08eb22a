"""The engine's steps around a simulated forward pass, with experts at several distances."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import product
from threading import Timer
from typing import Any
from unittest.mock import patch

import torch

from integration_tests.gpu_check.sizes import Sizes
from integration_tests.gpu_check.slots import sleep
from vllm_logits_processor.alignment import align as align_module
from vllm_logits_processor.alignment.align import row_sums_on_device
from vllm_logits_processor.cells import FusedCells, SentGains
from vllm_logits_processor.expert.protocol import ExpertReply
from vllm_logits_processor.testing.engines import HOST, Scripted, engine, stream_of

#: The expert answers after so many forward passes.
LATENCIES = (0.0, 1.0, 2.0)
_WARM_UP, _PATIENCE_MS = 2, 10_000.0


class Delayed(Scripted):
    """Answers as a toy model does, after a time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.mode, self._seconds = "toy", seconds

    def start(
        self, prompts: Sequence[Sequence[int]], *, model: str, steps: int = 1
    ) -> Future[ExpertReply]:
        """Answer later."""
        ready = super().start(prompts, model=model, steps=steps)
        if not self._seconds:
            return ready
        later: Future[ExpertReply] = Future()

        def answer() -> None:
            if later.set_running_or_notify_cancel():
                later.set_result(ready.result())

        timer = Timer(self._seconds, answer)
        timer.daemon = True
        timer.start()
        return later


def check(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Measure a step for every duration of the forward pass and distance of the expert."""
    cases = [
        one_case(
            device, rows=min(sizes.rows), forward_ms=forward, latency=latency, steps=sizes.steps
        )
        for forward, latency in product(sizes.forward_ms, LATENCIES)
    ]
    return {"cases": cases}


def failures(found: dict[str, Any]) -> list[str]:
    """Return what is not as it must be: every token is fused, in every case."""
    return [
        f"forward {case['forward_ms']} ms, latency {case['latency']}: fused {case['fused']:.2f}"
        for case in found["cases"]
        if case["fused"] < 1.0
    ]


def one_case(
    device: torch.device, *, rows: int, forward_ms: float, latency: float, steps: int
) -> dict[str, Any]:
    """Decode with one row per stream; milliseconds are medians of a whole step."""
    expert = Delayed(latency * forward_ms / 1000)
    parts = engine(expert, deadline_ms=_PATIENCE_MS, first_deadline_ms=_PATIENCE_MS)
    texts = (b"The cat", b"A mat", b"12 and", b"The")
    streams = {row: stream_of(parts, texts[row % len(texts)]) for row in range(rows)}
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(rows, len(HOST), generator=generator).to(device)
    took, fused = [], 0
    try:
        for step in range(_WARM_UP + steps):
            begun = time.perf_counter()
            parts.begin_step(list(streams.values()))
            if device.type == "cuda":
                sleep(device, forward_ms)
            else:
                time.sleep(forward_ms / 1000)
            logits = source.clone()
            with patch.object(align_module, "row_sums", row_sums_on_device):
                cells = parts.decide(logits, streams)
            written(cells, logits)
            for row, token in enumerate(logits.argmax(dim=1).tolist()):
                streams[row].output_ids.append(token)
            if step >= _WARM_UP:
                took.append((time.perf_counter() - begun) * 1000)
        for stream in streams.values():
            fused += stream.summary.tokens.get("fused", 0)
    finally:
        parts.close()
    return {
        "rows": rows,
        "forward_ms": forward_ms,
        "latency": latency,
        "step_ms": statistics.median(took),
        "fused": fused / (rows * (_WARM_UP + steps)),
    }


def written(cells: FusedCells, logits: torch.Tensor) -> None:
    """Write by the kernels, also where they are interpreted on a CPU."""
    if cells.gains is not None and cells.maps is not None:
        SentGains.to(logits.device, cells.gains.packed()).write(logits, cells.maps)
