"""Floe's processor with a dial for its deadline and with a clock; servers load it by name.

A deadline is read when a server starts, and a start takes half a minute. Here the number in a file
takes the place of the configuration's ``deadline_ms`` and ``first_deadline_ms`` at the beginning of
each step, so that one server is measured at many. Everything else is Floe's own.

The clock tells how much of a step lies outside ``update_state`` to ``apply``. That part, sampling,
output and scheduling, is where no call can be in flight: the last token is not known before it, and
the next step has not begun.
"""

import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate

from vllm_logits_processor.processor import FloeLogitsProcessor

#: Environment variables with the file that holds the deadline, in milliseconds, and with the one to
#: which each step's times are written.
DIAL, TIMES = "FLOE_DEADLINE_DIAL", "FLOE_TIMED_STEPS"

DIALLED, TIMED = f"{__name__}:DialledProcessor", f"{__name__}:TimedProcessor"


def dial(file: Path, deadline_ms: float) -> None:
    """Set the deadline from the next step on; a reader sees the old number or the new one."""
    fresh = file.with_suffix(".new")
    fresh.write_text(repr(deadline_ms), encoding="utf-8")
    fresh.replace(file)


class DialledProcessor(FloeLogitsProcessor):
    """Reads its deadline at every step."""

    def __init__(self, vllm_config: Any, *arguments: Any) -> None:
        super().__init__(vllm_config, *arguments)
        self._dial = Path(os.environ[DIAL])

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        deadline_ms = float(self._dial.read_text(encoding="utf-8"))
        for key in ("deadline_ms", "first_deadline_ms"):
            # The one configuration that all parts of the processor share; it is frozen so that
            # nothing but a benchmark changes it.
            object.__setattr__(self._config, key, deadline_ms)
        super().update_state(batch_update)


class TimedProcessor(DialledProcessor):
    """Writes two numbers per step: the seconds outside, then those inside."""

    def __init__(self, vllm_config: Any, *arguments: Any) -> None:
        super().__init__(vllm_config, *arguments)
        self._file = os.open(os.environ[TIMES], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._begun = self._ended = time.perf_counter()

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        self._begun = time.perf_counter()
        super().update_state(batch_update)

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
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
