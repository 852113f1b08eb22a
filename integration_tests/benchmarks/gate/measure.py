"""Measures one way of finding private data."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from integration_tests.benchmarks.cli import progress
from integration_tests.benchmarks.gate.data import Prompt

Finder = Callable[[str], Sequence[tuple[int, int]] | None]
"""Gives the private spans of a text, or None where it is private without any."""

CHARS = 500
_PIECES = 400
_WARM = 40


def measure(find: Finder, prompts: Sequence[Prompt], *, name: str = "gate") -> dict[str, Any]:
    """Return what a finder finds and how long it takes.

    Returns
    -------
    dict
        ``prompt_recall`` (share of the prompts with spans that are held back),
        ``false_alarm_rate`` (of those without), ``recall`` (class -> share of its spans that a
        found span overlaps), ``f2`` (of prompts), ``p50_ms`` and ``p99_ms`` per 500 characters.
        A share of nothing is None.
    """
    held, total, found = Counter[bool](), Counter[bool](), Counter[str]()
    classes = Counter[str]()
    for prompt in progress(prompts, name):
        spans = find(prompt.text)
        private = bool(prompt.spans)
        total[private] += 1
        held[private] += spans is None or bool(spans)
        for start, end, label in prompt.spans:
            classes[label] += 1
            found[label] += spans is None or any(a < end and b > start for a, b in spans)
    times = _times(find, prompts)
    return {
        "prompt_recall": _share(held[True], total[True]),
        "false_alarm_rate": _share(held[False], total[False]),
        "recall": {label: found[label] / classes[label] for label in sorted(classes)},
        "f2": _f2(held[True], total[True], held[False]),
        "p50_ms": float(np.percentile(times, 50)),
        "p99_ms": float(np.percentile(times, 99)),
    }


def seconds_per_mb(find: Finder, prompts: Sequence[Prompt]) -> float:
    """Return the seconds for a million characters made of the prompts' texts."""
    text = "\n".join(prompt.text for prompt in prompts)
    text = (text * (1_000_000 // max(1, len(text)) + 1))[:1_000_000]
    started = time.perf_counter()
    find(text)
    return time.perf_counter() - started


def _times(find: Finder, prompts: Sequence[Prompt]) -> list[float]:
    """Return milliseconds for pieces of 500 characters, after some to warm up."""
    text = "\n".join(prompt.text for prompt in prompts)
    while len(text) < CHARS * (_WARM + 20):
        text += "\n" + text
    starts = range(0, len(text) - CHARS + 1, CHARS)
    times = []
    for start in list(starts)[: _PIECES + _WARM]:
        piece = text[start : start + CHARS]
        started = time.perf_counter()
        find(piece)
        times.append((time.perf_counter() - started) * 1e3)
    return times[_WARM:]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _f2(found: int, private: int, alarms: int) -> float | None:
    if not private:
        return None
    # Recall counts four times as much as precision: 5 TP / (5 TP + 4 FN + FP).
    return 5 * found / (5 * found + 4 * (private - found) + alarms)
