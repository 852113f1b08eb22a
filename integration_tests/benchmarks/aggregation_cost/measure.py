"""Measures Floe's aggregation and the dense one on the same replies.

The dense reference adds every product to an (m, n) matrix with BLAS and decomposes it with LAPACK
(``numpy.linalg.svd``), once per case; Floe's time is the median of several runs, the first dropped.
"""

import re
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from floe_plugins.errors import ConfigError
from flower_strategy.adapters.adapter import AdapterState, Float32Array, LoraFactors
from flower_strategy.adapters.mean import AdapterMean, Aggregate
from integration_tests.benchmarks import cli

RANKS = (4, 32)
RANK = 32

_LAYER = "layer"
_Found = TypeVar("_Found")


def measure(options: cli.Namespace) -> dict[str, Any]:
    """Measure every size with every number of devices."""
    shapes = [_shape(size) for size in options.size]
    chosen = [(shape, count) for shape in shapes for count in options.clients]
    cases = [
        _case(shape, count, repeats=options.repeats)
        for shape, count in cli.progress(chosen, "cases")
    ]
    return {"rank": RANK, "client_ranks": list(RANKS), "cases": cases}


def _shape(size: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size)
    if found is None:
        raise ConfigError(f"--size is MxN such as 2048x2048, not {size!r}.")
    return int(found[1]), int(found[2])


def _case(shape: tuple[int, int], clients: int, *, repeats: int) -> dict[str, Any]:
    replies = list(_replies(shape, clients))
    floor_s, _ = _timed(lambda: [(f.b.copy(), f.a.copy()) for f, _ in replies])
    _factored(shape, replies)
    runs = [_timed(lambda: _factored(shape, replies)) for _ in range(repeats)]
    factored_s = statistics.median(seconds for seconds, _ in runs)
    aggregate = runs[-1][1]
    dense_s, (b, a) = _timed(lambda: _dense(shape, replies))
    reference = b @ a
    error = np.linalg.norm(aggregate.adapter.delta(_LAYER) - reference) / np.linalg.norm(reference)
    tracemalloc.start()
    _factored(shape, _replies(shape, clients))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "m": shape[0],
        "n": shape[1],
        "clients": clients,
        "stacked_rank": sum(factors.rank for factors, _ in replies),  # of all devices
        "factored_s": factored_s,  # folding in all replies and cutting the mean, with Floe
        "dense_s": dense_s,  # the dense sum, its decomposition and the cut
        "speedup": dense_s / factored_s,
        "relative_error": float(error),  # of Floe's product against the dense one, Frobenius
        # Peak of what Floe held, one reply included, as replies are made one by one; 1e6 bytes.
        "peak_mb": peak_bytes / 1e6,
        "floor_s": floor_s,  # copying the factors once: no aggregation can take less
        "over_floor": factored_s / floor_s,
        "discarded_energy": aggregate.discarded_energy,  # share beyond the cut
    }


def _replies(shape: tuple[int, int], clients: int) -> Iterator[tuple[LoraFactors, float]]:
    """Yield each device's factors and number of examples."""
    generator = np.random.default_rng((clients, *shape))
    for _ in range(clients):
        rank = int(generator.integers(RANKS[0], RANKS[1] + 1))
        factors = LoraFactors(
            b=generator.standard_normal((shape[0], rank), dtype=np.float32),
            a=generator.standard_normal((rank, shape[1]), dtype=np.float32),
        )
        yield factors, float(generator.integers(10, 1000))


def _factored(shape: tuple[int, int], replies: Iterable[tuple[LoraFactors, float]]) -> Aggregate:
    mean = AdapterMean({_LAYER: shape})
    for factors, weight in replies:
        mean.add(AdapterState({_LAYER: factors}), weight=weight)
    return mean.result(RANK)


def _dense(
    shape: tuple[int, int], replies: Sequence[tuple[LoraFactors, float]]
) -> tuple[Float32Array, Float32Array]:
    total = np.zeros(shape, np.float32)
    for factors, weight in replies:
        total += (np.float32(weight) * factors.b) @ factors.a
    total /= np.float32(sum(weight for _, weight in replies))
    left, values, right = np.linalg.svd(total, full_matrices=False)
    root = np.sqrt(values[:RANK])
    return left[:, :RANK] * root, root[:, None] * right[:RANK]


def _timed(work: Callable[[], _Found]) -> tuple[float, _Found]:
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found
