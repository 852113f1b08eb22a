"""How other ways of federated LoRA make one adapter of many."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flower_strategy.adapters.adapter import AdapterState, LoraFactors
from flower_strategy.adapters.mean import AdapterMean


def factor_mean(adapters: Sequence[AdapterState], weights: Sequence[float]) -> AdapterState:
    """Return the weighted mean of A and the weighted mean of B, taken separately.

    FedAvg (McMahan et al., arXiv 1602.05629) on the adapter's arrays, as FlowerTune and FedIT
    (Zhang et al., arXiv 2305.05644) do. All adapters have one rank and one scaling.
    """
    shares = np.asarray(_shares(weights), dtype=np.float32)
    layers = {
        name: LoraFactors(
            b=np.tensordot(shares, np.stack([one.layers[name].b for one in adapters]), axes=1),
            a=np.tensordot(shares, np.stack([one.layers[name].a for one in adapters]), axes=1),
        )
        for name in adapters[0].layers
    }
    return AdapterState(layers, adapters[0].scaling)


def zero_padded_mean(adapters: Sequence[AdapterState], rank: int) -> AdapterState:
    """Return HetLoRA's mean: factors padded with zeros to `rank`, weighted by their norms.

    Cho et al., "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models"
    (arXiv 2401.06432): the weight of a device is the Frobenius norm of its update B A, which gives
    less to small updates. All adapters have one scaling.
    """
    norms = [product_norm(adapter) for adapter in adapters]
    padded = [adapter.resized(rank) for adapter in adapters]
    return factor_mean(padded, norms if any(norms) else [1.0] * len(norms))


def product_norm(adapter: AdapterState) -> float:
    """Return the Frobenius norm of the moves of all layers, without forming them.

    The square of ``|B A|`` is the trace of ``(B^T B) (A A^T)``.
    """
    squares = (
        float(np.sum((f.b.T @ f.b).astype(np.float64) * (f.a @ f.a.T).astype(np.float64)))
        for f in adapter.layers.values()
    )
    return abs(adapter.scaling) * math.sqrt(max(0.0, math.fsum(squares)))


def energy_above(adapter: AdapterState, rank: int) -> float:
    """Return the share of the squared singular values of all layers beyond the largest `rank`.

    It is what the devices of that rank would not get of the product, and 0 of a product that is 0.
    The values are those of the product of the two factors' triangles (Golub and Van Loan, 5.4).
    """
    beyond = whole = 0.0
    for factors in adapter.layers.values():
        left, right = np.linalg.qr(factors.b)[1], np.linalg.qr(factors.a.T)[1]
        squares = np.linalg.svd(left @ right.T, compute_uv=False).astype(np.float64) ** 2
        beyond += float(squares[rank:].sum())
        whole += float(squares.sum())
    return beyond / whole if whole else 0.0


def decomposed_mean(
    adapters: Sequence[AdapterState], weights: Sequence[float], rank: int
) -> AdapterState:
    """Return FlexLoRA's mean: the singular value decomposition of the mean product, cut to `rank`.

    Bai et al., "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and
    Client Resources" (arXiv 2402.11505). The singular values go to B, so the rows of A are
    orthonormal. The matrix is that of the dense sum; it is decomposed in factored form, which only
    saves time.
    """
    mean = AdapterMean(adapters[0].shapes)
    for adapter, weight in zip(adapters, weights, strict=True):
        mean.add(adapter, weight=weight)
    layers = {}
    for name, factors in mean.result(rank).adapter.layers.items():
        lengths = np.linalg.norm(factors.a, axis=1)
        lengths[lengths == 0] = 1.0
        layers[name] = LoraFactors(b=factors.b * lengths, a=factors.a / lengths[:, None])
    return AdapterState(layers)


def stack(adapters: Sequence[AdapterState], weights: Sequence[float]) -> AdapterState:
    """Return FLoRA's sum: all factors side by side, so its product is the mean product exactly.

    Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank
    Adaptations" (arXiv 2409.05976). Its rank is the sum of the ranks, its scaling 1.
    """
    shares = zip(_shares(weights), adapters, strict=True)
    return joined([one.scaled(share * one.scaling) for share, one in shares])


def joined(adapters: Sequence[AdapterState]) -> AdapterState:
    """Return the sum of adapters of scaling 1 as one of their ranks' sum."""
    layers = {
        name: LoraFactors(
            b=np.hstack([one.layers[name].b for one in adapters]),
            a=np.vstack([one.layers[name].a for one in adapters]),
        )
        for name in adapters[0].layers
    }
    return AdapterState(layers)


def _shares(weights: Sequence[float]) -> list[float]:
    total = math.fsum(weights)
    return [weight / total for weight in weights]
