"""Signals that try routers, within the ranges that a decoding step can give."""

from __future__ import annotations

import math

import numpy as np

from floe_plugins.routers import RouterSignals

#: ln of a vocabulary of a million tokens: no entropy is higher.
MOST_ENTROPY = 14.0
#: Nats per token that one model may have predicted better by.
MOST_EVIDENCE = 50.0


def make_signals(rows: int, *, seed: int = 0) -> RouterSignals:
    """Return random signals of some rows, the same for the same seed; arrays of shape (rows,).

    The first rows are extremes: models that are certain, or know nothing, and evidence far to
    either side. Rounding may leave an entropy a little below zero, and so it does here.
    """
    rng = np.random.default_rng(seed)
    values = {
        "host_entropy": rng.uniform(0, MOST_ENTROPY, rows),
        "expert_entropy": rng.uniform(0, MOST_ENTROPY, rows),
        "disagreement": rng.uniform(0, math.log(2), rows),
        "evidence": rng.normal(0, 3, rows),
        "prompt_evidence": rng.normal(0, 1, rows),
    }
    extremes = (
        (0.0, 0.0, 0.0, 0.0, 0.0),
        (-1e-12, MOST_ENTROPY, math.log(2), MOST_EVIDENCE, MOST_EVIDENCE),
        (MOST_ENTROPY, -1e-12, math.log(2), -MOST_EVIDENCE, -MOST_EVIDENCE),
        (MOST_ENTROPY, MOST_ENTROPY, 1e-300, 1e-300, 0.0),
    )
    for row, extreme in enumerate(extremes[:rows]):
        for name, value in zip(values, extreme, strict=True):
            values[name][row] = value
    return RouterSignals(**values)


def rows_of(signals: RouterSignals, rows: list[int]) -> RouterSignals:
    """Return the signals of some of the rows, in that order."""
    return RouterSignals(**{name: array[rows] for name, array in vars(signals).items()})
