"""Floe's processor with a dial for its deadline, so that one server is measured at many.

A deadline is read when a server starts, and a start takes half a minute. All else is Floe's own: at
the beginning of each step the number in a file takes the place of the configuration's
``deadline_ms`` and ``first_deadline_ms``. A server loads this class by name.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vllm.v1.sample.logits_processor import BatchUpdate

from vllm_logits_processor.processor import FloeLogitsProcessor

#: Environment variable with the file that holds the deadline, in milliseconds.
FILE = "FLOE_DEADLINE_DIAL"

CLASS = f"{__name__}:DialledProcessor"


def dial(file: Path, deadline_ms: float) -> None:
    """Set the deadline from the next step on; a reader sees the old number or the new one."""
    fresh = file.with_suffix(".new")
    fresh.write_text(repr(deadline_ms), encoding="utf-8")
    fresh.replace(file)


class DialledProcessor(FloeLogitsProcessor):
    """Reads its deadline at every step."""

    def __init__(self, vllm_config: Any, *arguments: Any) -> None:
        super().__init__(vllm_config, *arguments)
        self._dial = Path(os.environ[FILE])

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Take the deadline over, then begin the step with it."""
        deadline_ms = float(self._dial.read_text(encoding="utf-8"))
        for key in ("deadline_ms", "first_deadline_ms"):
            # The one configuration that all parts of the processor share; it is frozen so that
            # nothing but a benchmark changes it.
            object.__setattr__(self._config, key, deadline_ms)
        super().update_state(batch_update)
