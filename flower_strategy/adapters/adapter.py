"""LoRA adapters as plain arrays, the form in which devices and server exchange them.

An adapter gives every adapted linear layer two factors, ``a`` of shape (rank, in) and ``b`` of
shape (out, rank); the layer's weight changes by ``scaling * b @ a``. Hu et al., "LoRA: Low-Rank
Adaptation of Large Language Models" (arXiv 2106.09685); for ``alpha / sqrt(rank)`` see
Kalajdzievski, "A Rank Stabilization Scaling Factor" (arXiv 2312.03732).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from floe_plugins.errors import FloeError
from flower_strategy.adapters.arrays import to_numpy

Float32Array = NDArray[np.float32]
LayerShapes = Mapping[str, tuple[int, int]]
"""Adapted layer -> (out, in), the shape of its weight."""

_A_SUFFIX = ".lora_A"
_B_SUFFIX = ".lora_B"

_PEFT_PREFIX = "base_model.model."
_PEFT_A, _PEFT_B = ".lora_A.weight", ".lora_B.weight"


class AdapterError(FloeError, ValueError):
    """Arrays do not form a LoRA adapter; the message names the layer and the reason."""


def lora_scaling(*, alpha: float, rank: int, rslora: bool = False) -> float:
    """Return the factor in front of ``b @ a``.

    Parameters
    ----------
    alpha : float
        LoRA's alpha; 0 stands for ``alpha = rank``, a factor of 1.
    rank : int
        The adapter's rank.
    rslora : bool (default: False)
        Divide by ``sqrt(rank)`` rather than by ``rank``.
    """
    if alpha == 0:
        return 1.0
    return alpha / (math.sqrt(rank) if rslora else rank)


@dataclass(frozen=True, eq=False)
class LoraFactors:
    """The two factors of one layer.

    Attributes
    ----------
    b : Float32Array
        Shape (out, rank), float32.
    a : Float32Array
        Shape (rank, in), float32.
    """

    b: Float32Array
    a: Float32Array

    def __post_init__(self) -> None:
        if self.a.ndim != 2 or self.b.ndim != 2 or self.a.shape[0] != self.b.shape[1]:
            raise AdapterError(
                f"LoRA factors must be b (out, rank) and a (rank, in) with one rank, got "
                f"b {self.b.shape} and a {self.a.shape}."
            )

    @property
    def rank(self) -> int:
        """Number of rank-one terms."""
        return int(self.a.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (out, in) of the weight that the factors change."""
        return int(self.b.shape[0]), int(self.a.shape[1])


@dataclass(frozen=True, eq=False)
class AdapterState:
    """One adapter: factors per layer, one scaling for all of them.

    Attributes
    ----------
    layers : dict[str, LoraFactors]
        Module path in the base model (``model.layers.0.self_attn.q_proj``) -> factors.
    scaling : float (default: 1.0)
        The factor in front of every ``b @ a``.
    """

    layers: dict[str, LoraFactors]
    scaling: float = 1.0

    @property
    def rank(self) -> int:
        """The largest rank of any layer (0 without layers)."""
        return max((factors.rank for factors in self.layers.values()), default=0)

    @property
    def num_bytes(self) -> int:
        """Bytes of all factors, as sent."""
        return sum(f.a.nbytes + f.b.nbytes for f in self.layers.values())

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Layer -> (out, in)."""
        return {name: factors.shape for name, factors in self.layers.items()}

    def delta(self, layer: str) -> Float32Array:
        """Return the change of one layer's weight, shape (out, in), float32."""
        factors = self.layers[layer]
        return np.asarray(self.scaling * (factors.b @ factors.a), dtype=np.float32)

    def resized(self, rank: int, *, fill: AdapterState | None = None) -> AdapterState:
        """Return this adapter at another rank.

        A smaller rank keeps the first terms. That is the best approximation if the terms are
        ordered by singular value, as aggregation orders them. A larger rank appends terms whose
        ``b`` is zero, so ``b @ a`` does not change. Their ``a`` comes from `fill`: a term with both
        factors zero has no gradient and never learns.

        Parameters
        ----------
        rank : int
            The new rank, at least 1.
        fill : AdapterState, optional
            Adapter with the same layers and at least `rank` terms; zeros if not given.
        """
        layers = {}
        for name, factors in self.layers.items():
            kept = min(rank, factors.rank)
            a = np.zeros((rank, factors.shape[1]), dtype=np.float32)
            b = np.zeros((factors.shape[0], rank), dtype=np.float32)
            if fill is not None:
                a[kept:] = fill.layers[name].a[kept:rank]
            a[:kept] = factors.a[:kept]
            b[:, :kept] = factors.b[:, :kept]
            layers[name] = LoraFactors(b=b, a=a)
        return AdapterState(layers, self.scaling)

    def scaled(self, factor: float) -> AdapterState:
        """Return this adapter with its weight changes multiplied; only ``b`` changes."""
        layers = {
            name: LoraFactors(b=np.float32(factor) * f.b, a=f.a) for name, f in self.layers.items()
        }
        return AdapterState(layers, self.scaling)

    def with_scaling(self, scaling: float) -> AdapterState:
        """Return the same weight changes with another scaling; ``b`` compensates."""
        if scaling == self.scaling:
            return self
        return AdapterState(self.scaled(self.scaling / scaling).layers, scaling)

    def balanced(self, like: AdapterState) -> AdapterState:
        """Return the same weight changes with rows of ``a`` as long as those of another adapter.

        A mean's singular values are split evenly between its factors, and after a few steps of
        training they are small. A device that continued from there would learn slowly, because an
        optimizer step on ``b`` moves the weight in proportion to the length of ``a``. So every term
        gets the length of ``a`` that training began with, and ``b`` compensates.

        Parameters
        ----------
        like : AdapterState
            Adapter with the same layers and at least as many terms.
        """
        layers = {}
        for name, factors in self.layers.items():
            lengths = np.linalg.norm(factors.a, axis=1)
            wanted = np.linalg.norm(like.layers[name].a[: factors.rank], axis=1)
            factor = np.where(lengths > 0, wanted / np.maximum(lengths, 1e-30), 1.0)
            # A term whose wanted length is zero stays as it is.
            factor = np.where(factor > 0, factor, 1.0).astype(np.float32)
            layers[name] = LoraFactors(b=factors.b / factor, a=factors.a * factor[:, None])
        return AdapterState(layers, self.scaling)

    def to_arrays(self, *, prefix: str = "") -> ArrayRecord:
        """Write the factors into a Flower record; the scaling is sent separately."""
        record = {}
        for name, factors in self.layers.items():
            record[f"{prefix}{name}{_A_SUFFIX}"] = Array(factors.a)
            record[f"{prefix}{name}{_B_SUFFIX}"] = Array(factors.b)
        return ArrayRecord(record)

    @staticmethod
    def from_arrays(
        arrays: ArrayRecord | Mapping[str, Array], *, scaling: float = 1.0
    ) -> AdapterState:
        """Read the factors from a Flower record.

        Raises
        ------
        AdapterError
            A key is not ``<layer>.lora_A`` or ``<layer>.lora_B``, one of a pair is missing, or
            the shapes do not fit each other.
        """
        return AdapterState(
            dict(_pairs({key: to_numpy(array) for key, array in arrays.items()})), scaling
        )

    def to_peft(self) -> dict[str, Float32Array]:
        """Return the factors under PEFT's names; PEFT keeps the scaling in its configuration."""
        state = {}
        for name, factors in self.layers.items():
            state[f"{_PEFT_PREFIX}{name}{_PEFT_A}"] = factors.a
            state[f"{_PEFT_PREFIX}{name}{_PEFT_B}"] = factors.b
        return state

    @staticmethod
    def from_peft(state: Mapping[str, Float32Array], *, scaling: float) -> AdapterState:
        """Read the factors from a PEFT state dictionary."""
        layers = {}
        for key, a in state.items():
            if key.endswith(_PEFT_A):
                layer = key.removesuffix(_PEFT_A)
                layers[layer.removeprefix(_PEFT_PREFIX)] = LoraFactors(
                    b=state[layer + _PEFT_B], a=a
                )
        return AdapterState(layers, scaling)


def _pairs(arrays: Mapping[str, NDArray[np.generic]]) -> Iterator[tuple[str, LoraFactors]]:
    for key in arrays:
        if not key.endswith((_A_SUFFIX, _B_SUFFIX)):
            raise AdapterError(
                f"Key {key!r} is no LoRA factor; keys end in '{_A_SUFFIX}' or '{_B_SUFFIX}'."
            )
    names = {key.removesuffix(_A_SUFFIX).removesuffix(_B_SUFFIX): None for key in arrays}
    for name in names:
        a, b = arrays.get(name + _A_SUFFIX), arrays.get(name + _B_SUFFIX)
        if a is None or b is None:
            missing = _A_SUFFIX if a is None else _B_SUFFIX
            raise AdapterError(f"Layer {name!r} has no '{missing}'.")
        if a.dtype.kind != "f" or b.dtype.kind != "f":
            raise AdapterError(
                f"Layer {name!r} has factors of type {a.dtype} and {b.dtype}; floats are needed."
            )
        try:
            yield (
                name,
                LoraFactors(b=b.astype(np.float32, copy=False), a=a.astype(np.float32, copy=False)),
            )
        except AdapterError as error:
            raise AdapterError(f"Layer {name!r}: {error}") from error


def initial_adapter(shapes: LayerShapes, *, rank: int, seed: int) -> AdapterState:
    """Return a run's initial adapter: ``a`` random, ``b`` zero.

    The rows of ``a`` are drawn in order from a generator seeded with the seed and the layer's name,
    so adapters of different ranks share their first rows. The distribution is PEFT's: uniform
    within ``1 / sqrt(in)``.

    Parameters
    ----------
    shapes : LayerShapes
        Layer -> (out, in).
    rank : int
        The rank.
    seed : int
        Seed of the run.
    """
    layers = {}
    for name, (out_features, in_features) in shapes.items():
        generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
        bound = 1.0 / math.sqrt(in_features)
        a = generator.uniform(-bound, bound, (rank, in_features)).astype(np.float32)
        layers[name] = LoraFactors(b=np.zeros((out_features, rank), np.float32), a=a)
    return AdapterState(layers)
