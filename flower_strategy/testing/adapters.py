"""A small adapter of random numbers, for tests of what is done with adapters."""

from __future__ import annotations

import numpy as np

from flower_strategy.adapters.adapter import AdapterState, LoraFactors

SHAPES = {"up": (7, 5), "down": (5, 7)}
"""Its layers."""


def random_adapter(rank: int, seed: int, *, scaling: float = 1.0) -> AdapterState:
    """Return an adapter of float32 numbers that follow from rank and seed."""
    generator = np.random.default_rng([rank, seed])
    layers = {
        name: LoraFactors(
            b=generator.normal(size=(rows, rank)).astype(np.float32),
            a=generator.normal(size=(rank, columns)).astype(np.float32),
        )
        for name, (rows, columns) in SHAPES.items()
    }
    return AdapterState(layers, scaling)
