"""Adapters in eight bits for the way between server and devices.

Every rank-one term has two scales of its own, one for its row of ``a`` and one for its column of
``b``: 127 times the scale is at least the largest magnitude. Entries become whole numbers from
-127 to 127, at most half a scale off. A whole number of eight bits times a float16 fits float32,
so `decode` does not round: both ends compute with the same numbers. The record holds
``<layer>.lora_A`` and ``<layer>.lora_B`` as int8, and all scales in one float16 array: sorted by
layer, those of ``a`` before those of ``b``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from flower_strategy.adapters.adapter import (
    AdapterError,
    AdapterState,
    Float32Array,
    LayerShapes,
    LoraFactors,
)
from flower_strategy.adapters.arrays import to_numpy

SCALES_KEY = "scales"
"""Where a record has the scales; a record without it is none of these."""

_A, _B = ".lora_A", ".lora_B"
_LEVELS = 127
_SCALE_BYTES = 2


def encode(adapter: AdapterState) -> ArrayRecord:
    """Round an adapter's factors to eight bits; its scaling is sent separately.

    Raises
    ------
    AdapterError
        A factor holds a number that is not finite, or above 8.3 million.
    """
    record, scales = {}, []
    for name, factors in sorted(adapter.layers.items()):
        for suffix, factor in ((_A, factors.a), (_B, factors.b.T)):
            numbers, scale = _rounded(factor, name=name + suffix)
            stored = numbers if suffix == _A else np.ascontiguousarray(numbers.T)
            record[name + suffix] = Array(stored)
            scales.append(scale)
    record[SCALES_KEY] = Array(np.concatenate(scales) if scales else np.zeros(0, np.float16))
    return ArrayRecord(record)


def decode(arrays: ArrayRecord | Mapping[str, Array], *, scaling: float = 1.0) -> AdapterState:
    """Return the adapter that `encode` rounded to.

    Raises
    ------
    AdapterError
        A key is not ``<layer>.lora_A`` or ``<layer>.lora_B``, one of a pair is missing, a type or
        shape does not fit, or a scale is negative or not finite.
    """
    found = {key: to_numpy(array) for key, array in arrays.items()}
    scales = found.pop(SCALES_KEY, None)
    if scales is None or scales.dtype != np.float16 or scales.ndim != 1:
        described = "none" if scales is None else f"{scales.dtype} of shape {scales.shape}"
        raise AdapterError(f"Key {SCALES_KEY!r} must be a row of float16, got {described}.")
    if not np.isfinite(scales).all() or (scales < 0).any():
        raise AdapterError(f"Key {SCALES_KEY!r} holds numbers that are negative or not finite.")
    layers, start = {}, 0
    for name in sorted({_layer(key) for key in found}):
        a, b = (_numbers(found, name + suffix) for suffix in (_A, _B))
        if a.shape[0] != b.shape[1]:
            raise AdapterError(
                f"Layer {name!r} must have one rank, got b {b.shape} and a {a.shape}."
            )
        rank = a.shape[0]
        own = scales[start : start + 2 * rank].astype(np.float32)
        start += 2 * rank
        if own.size == 2 * rank:
            layers[name] = LoraFactors(b=b * own[rank:], a=a * own[:rank, None])
    if start != scales.size:
        raise AdapterError(f"Key {SCALES_KEY!r} has {scales.size} scales, {start} are needed.")
    return AdapterState(layers, scaling)


def rounded(adapter: AdapterState) -> AdapterState:
    """Return the adapter that the other end computes with; see `encode` for what it raises."""
    return decode(encode(adapter), scaling=adapter.scaling)


def bytes_per_rank(shapes: LayerShapes) -> int:
    """Return the bytes of one term of every layer: its numbers and their scales."""
    return sum(rows + columns + 2 * _SCALE_BYTES for rows, columns in shapes.values())


def encoded_bytes(adapter: AdapterState) -> int:
    """Return the bytes of an adapter's arrays once encoded."""
    return sum(
        factors.a.size + factors.b.size + 2 * _SCALE_BYTES * factors.rank
        for factors in adapter.layers.values()
    )


def _rounded(rows: Float32Array, *, name: str) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Return rows as whole numbers, and one scale a row."""
    largest = np.abs(rows).max(axis=1, initial=0.0)
    with np.errstate(over="ignore"):
        scales = (largest / _LEVELS).astype(np.float16)
        # Rounded up, so that no number lies above 127 scales.
        short = scales.astype(np.float32) * np.float32(_LEVELS) < largest
        scales = np.where(short, np.nextafter(scales, np.float16(np.inf)), scales)
    # A number that is not finite makes its row's largest so.
    if not np.isfinite(scales).all():
        most = _LEVELS * float(np.finfo(np.float16).max)
        raise AdapterError(
            f"{name} holds {largest[~np.isfinite(scales)][0]:g}; eight bits take numbers up to "
            f"{most:g}."
        )
    steps = np.where(scales > 0, scales, 1).astype(np.float32)
    return np.rint(rows / steps[:, None]).astype(np.int8), scales


def _layer(key: str) -> str:
    for suffix in (_A, _B):
        if key.endswith(suffix):
            return key.removesuffix(suffix)
    raise AdapterError(f"Key {key!r} is no LoRA factor; keys end in '{_A}' or '{_B}'.")


def _numbers(arrays: Mapping[str, NDArray[np.generic]], key: str) -> Float32Array:
    if key not in arrays:
        raise AdapterError(f"There is no {key!r}, the other factor of its layer.")
    array = arrays[key]
    if array.dtype != np.int8 or array.ndim != 2:
        raise AdapterError(
            f"{key!r} must be a matrix of int8, got {array.dtype} of shape {array.shape}."
        )
    return array.astype(np.float32)
