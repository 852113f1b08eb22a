"""Floe's processor with a clock: how much of a step lies outside ``update_state`` to ``apply``.

That part, sampling, output and scheduling, is where no call can be in flight: the last token is not
known before it, and the next step has not begun. A server loads this class by name.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate

from integration_tests.benchmarks.decode.deadlines_processor import DialledProcessor

#: Environment variable with the file to which each step's times are written.
FILE = "FLOE_TIMED_STEPS"

CLASS = f"{__name__}:TimedProcessor"


class TimedProcessor(DialledProcessor):
    """Writes two numbers a step: seconds outside and inside, the former before the latter.

    Its deadline can be turned as well, so that a silent expert needs no server of its own.
    """

    def __init__(self, vllm_config: Any, *arguments: Any) -> None:
        super().__init__(vllm_config, *arguments)
        self._file = os.open(os.environ[FILE], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._begun = self._ended = time.perf_counter()

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Note when the step begins."""
        self._begun = time.perf_counter()
        super().update_state(batch_update)

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """Note when the step's logits are done."""
        outside = self._begun - self._ended
        logits = super().apply(logits, ctx)
        self._ended = time.perf_counter()
        os.write(self._file, f"{outside} {self._ended - self._begun}\n".encode())
        return logits


def outside_share(file: Path) -> float:
    """Return the share of a step outside, by the medians of all steps in `file`."""
    times = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    outside, inside = (statistics.median(float(each[at]) for each in times) for at in (0, 1))
    return outside / (outside + inside)
