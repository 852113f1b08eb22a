"""Exact sums of adapters: their factors, stacked side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flower_strategy.adapters.adapter import AdapterError, AdapterState, LoraFactors


def stacked(parts: Sequence[tuple[float, AdapterState]]) -> AdapterState:
    """Return ``sum(weight * adapter)`` without forming a weight's matrix.

    A sum of products is the product of the stacks: ``[w_1 s_1 B_1, w_2 s_2 B_2, ...]`` and the
    ``A_i`` one below the other. The rank is the sum of the ranks, and the scaling is 1.

    Parameters
    ----------
    parts : Sequence[tuple[float, AdapterState]]
        Weight, of any sign, and adapter; at least one, all with the same layers and shapes.

    Raises
    ------
    AdapterError
        There is no adapter, or their layers or shapes differ.
    """
    if not parts:
        raise AdapterError("A sum of 0 adapters has no layers; 1 is needed at least.")
    shapes = parts[0][1].shapes
    if any(adapter.shapes != shapes for _, adapter in parts):
        raise AdapterError("Adapters of different layers or shapes have no sum.")
    layers = {}
    for name in shapes:
        columns = [
            np.float32(weight * adapter.scaling) * adapter.layers[name].b
            for weight, adapter in parts
        ]
        rows = [adapter.layers[name].a for _, adapter in parts]
        layers[name] = LoraFactors(b=np.hstack(columns), a=np.vstack(rows))
    return AdapterState(layers)


def is_zero(adapter: AdapterState) -> bool:
    """Return whether an adapter changes nothing because one factor of every layer is zero."""
    return not any(factors.b.any() and factors.a.any() for factors in adapter.layers.values())
