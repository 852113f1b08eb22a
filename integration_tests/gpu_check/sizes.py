"""How large everything is: as on a GPU, or small enough for a CPU to show that it runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of all subjects.

    Attributes
    ----------
    rows : tuple of int
        Rows of a step.
    columns : int
        Columns of the logits.
    ks : tuple of int
        Tokens that the expert names.
    repeats : int
        Of what is timed.
    forward_ms : tuple of float
        Durations of a simulated forward pass.
    steps : int
        Decoding steps.
    """

    rows: tuple[int, ...] = (8, 64, 256)
    columns: int = 151_936
    ks: tuple[int, ...] = (20, 100, 1000)
    repeats: int = 20
    forward_ms: tuple[float, ...] = (8.0, 16.0, 24.0)
    steps: int = 40


SMALL = Sizes(rows=(2,), columns=300, ks=(4,), repeats=1, forward_ms=(5.0,), steps=4)


def milliseconds(function: Callable[[], object], device: torch.device, *, repeats: int) -> float:
    """Return the median time of a call, the device's work included."""
    if device.type == "cuda":
        from triton.testing import do_bench

        return float(do_bench(function, warmup=25, rep=5 * repeats, return_mode="median"))
    took = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        took.append((time.perf_counter() - begun) * 1000)
    return statistics.median(took)
