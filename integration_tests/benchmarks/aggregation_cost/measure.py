"""Seconds, error and memory of Floe's aggregation against summing and decomposing dense matrices.

Devices have ranks drawn from 4 to 32 and independent random factors: nothing that aggregation could
exploit is shared. Both sides get float32 factors, may use the same threads, and return the best
rank-32 approximation of the weighted mean.

The dense reference adds every product to an (m, n) matrix with BLAS and decomposes it with LAPACK
(``numpy.linalg.svd``), once per case; Floe's time is the median of several runs, the first dropped.
The relative error is that of the product ``b @ a`` against the reference's truncated product, in
the Frobenius norm. The peak is what Floe's aggregation holds while replies are made one at a time
and dropped, one reply included.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TypeVar

import numpy as np

from flower_strategy.adapters.adapter import AdapterState, FloatArray, LoraFactors
from flower_strategy.adapters.mean import AdapterMean, Aggregate
from integration_tests.benchmarks import cli

SIZES = ("576x1536", "2048x2048", "4096x4096")
CLIENTS = (8, 32, 128, 1000)
RANKS = (4, 32)
RANK = 32

_LAYER = "layer"
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One size and number of devices.

    Attributes
    ----------
    m, n : int
        Shape of the layer's weight.
    clients : int
        Number of devices.
    stacked_rank : int
        Sum of their ranks.
    factored_s : float
        Seconds of folding in all replies and cutting the mean, with Floe.
    dense_s : float
        Seconds of the dense sum, its decomposition and the cut.
    speedup : float
        ``dense_s / factored_s``.
    relative_error : float
        Of Floe's product against the dense one.
    peak_mb : float
        Most megabytes (1e6 bytes) that Floe's aggregation held at once.
    floor_s : float
        Seconds of copying the factors once: less than this no aggregation can take.
    over_floor : float
        ``factored_s / floor_s``.
    discarded_energy : float
        Share of the energy beyond the cut.
    """

    m: int
    n: int
    clients: int
    stacked_rank: int
    factored_s: float
    dense_s: float
    speedup: float
    relative_error: float
    peak_mb: float
    floor_s: float
    over_floor: float
    discarded_energy: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = cli.parser("Cost of exact factored aggregation against dense sum-then-SVD.")
    add = parser.add_argument
    add("--clients", type=int, nargs="+", default=CLIENTS, help=f"numbers of devices ({CLIENTS})")
    add("--size", nargs="+", default=SIZES, help=f"sizes MxN ({', '.join(SIZES)})")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of Floe per case")
    options = parser.parse_args(arguments)
    try:
        sizes = [_shape(size) for size in options.size]
    except ValueError as error:
        parser.error(f"--size is MxN such as 2048x2048, not {error}")
    if min(*options.clients, options.repeats) < 1:
        parser.error("--clients and --repeats are at least 1")
    chosen = [(shape, count) for shape in sizes for count in options.clients]
    cases = [
        measure(shape, count, repeats=options.repeats)
        for shape, count in cli.progress(chosen, "cases")
    ]
    cli.show(
        options,
        {"rank": RANK, "client_ranks": list(RANKS), "cases": [asdict(case) for case in cases]},
        header=[field.name for field in fields(Case)],
        rows=[list(asdict(case).values()) for case in cases],
        remarks=[
            _conclusion(cases),
            f"Ranks of the devices drawn from {RANKS[0]} to {RANKS[1]}, result cut to {RANK}; "
            f"factored_s is the median of {options.repeats} runs, dense_s one run.",
        ],
    )
    return 0


def _conclusion(cases: Sequence[Case]) -> str:
    speedups = [case.speedup for case in cases]
    floors = [case.over_floor for case in cases]
    return (
        f"Factored, {min(speedups):.2g} to {max(speedups):.2g} times as fast as the dense way and "
        f"{min(floors):.2g} to {max(floors):.2g} times the time of one copy of the factors; both "
        f"agree to {max(case.relative_error for case in cases):.1e}."
    )


def measure(shape: tuple[int, int], clients: int, *, repeats: int) -> Case:
    """Measure one case."""
    replies = list(make_replies(shape, clients))
    floor_s, _ = _timed(lambda: [(f.b.copy(), f.a.copy()) for f, _ in replies])
    factored(shape, replies)
    runs = [_timed(lambda: factored(shape, replies)) for _ in range(repeats)]
    factored_s = statistics.median(seconds for seconds, _ in runs)
    result = runs[-1][1]
    dense_s, (b, a) = _timed(lambda: dense(shape, replies))
    reference = b @ a
    error = np.linalg.norm(result.adapter.delta(_LAYER) - reference) / np.linalg.norm(reference)
    stacked_rank = sum(factors.rank for factors, _ in replies)
    return Case(
        m=shape[0],
        n=shape[1],
        clients=clients,
        stacked_rank=stacked_rank,
        factored_s=factored_s,
        dense_s=dense_s,
        speedup=dense_s / factored_s,
        relative_error=float(error),
        peak_mb=_peak_bytes(shape, clients) / 1e6,
        floor_s=floor_s,
        over_floor=factored_s / floor_s,
        discarded_energy=result.discarded_energy,
    )


def make_replies(shape: tuple[int, int], clients: int) -> Iterator[tuple[LoraFactors, float]]:
    """Yield each device's factors and number of examples."""
    generator = np.random.default_rng((clients, *shape))
    for _ in range(clients):
        rank = int(generator.integers(RANKS[0], RANKS[1] + 1))
        factors = LoraFactors(
            b=generator.standard_normal((shape[0], rank), dtype=np.float32),
            a=generator.standard_normal((rank, shape[1]), dtype=np.float32),
        )
        yield factors, float(generator.integers(10, 1000))


def factored(shape: tuple[int, int], replies: Iterable[tuple[LoraFactors, float]]) -> Aggregate:
    """Aggregate as Floe does."""
    mean = AdapterMean({_LAYER: shape})
    for factors, weight in replies:
        mean.add(AdapterState({_LAYER: factors}), weight=weight)
    return mean.result(RANK)


def dense(
    shape: tuple[int, int], replies: Sequence[tuple[LoraFactors, float]]
) -> tuple[FloatArray, FloatArray]:
    """Sum the products, decompose the mean, cut it."""
    total = np.zeros(shape, np.float32)
    for factors, weight in replies:
        total += (np.float32(weight) * factors.b) @ factors.a
    total /= np.float32(sum(weight for _, weight in replies))
    left, values, right = np.linalg.svd(total, full_matrices=False)
    root = np.sqrt(values[:RANK])
    return left[:, :RANK] * root, root[:, None] * right[:RANK]


def _peak_bytes(shape: tuple[int, int], clients: int) -> int:
    tracemalloc.start()
    try:
        factored(shape, make_replies(shape, clients))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _timed(work: Callable[[], _Result]) -> tuple[float, _Result]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _shape(size: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size)
    if found is None:
        raise ValueError(repr(size))
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    sys.exit(cli.command(main))
