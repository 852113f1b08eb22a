"""How adapters become one, against dense matrices."""

import numpy as np
import pytest

from flower_strategy.adapters.adapter import AdapterState, Float32Array, LoraFactors
from integration_tests.benchmarks.federated_quality.means import (
    decomposed_mean,
    energy_above,
    factor_mean,
    joined,
    product_norm,
    stack,
    zero_padded_mean,
)

SHAPES = {"one": (12, 9), "two": (7, 10)}


def adapters(ranks: tuple[int, ...], *, scaling: float = 1.0) -> list[AdapterState]:
    generator = np.random.default_rng(0)
    return [
        AdapterState(
            {
                name: LoraFactors(
                    b=generator.normal(size=(out, rank)).astype(np.float32),
                    a=generator.normal(size=(rank, inner)).astype(np.float32),
                )
                for name, (out, inner) in SHAPES.items()
            },
            scaling,
        )
        for rank in ranks
    ]


def dense_mean(given: list[AdapterState], weights: list[float], layer: str) -> Float32Array:
    total = sum(weights)
    moves = [weight / total * one.delta(layer) for weight, one in zip(weights, given, strict=True)]
    return np.asarray(np.sum(moves, axis=0), dtype=np.float32)


def test_fedavg_averages_the_factors_each_for_itself() -> None:
    given = adapters((3, 3), scaling=0.5)
    mean = factor_mean(given, [1, 3])
    assert mean.scaling == 0.5
    for name in SHAPES:
        left, right = (one.layers[name] for one in given)
        np.testing.assert_allclose(mean.layers[name].a, 0.25 * left.a + 0.75 * right.a, rtol=1e-5)
        np.testing.assert_allclose(mean.layers[name].b, 0.25 * left.b + 0.75 * right.b, rtol=1e-5)
        assert not np.allclose(mean.delta(name), dense_mean(given, [1, 3], name), rtol=0.1)


@pytest.mark.parametrize("rank", [0, 1, 3, 5])
def test_energy_above_a_rank_is_that_of_the_dense_product(rank: int) -> None:
    (one,) = adapters((5,), scaling=3.0)
    squares = [np.linalg.svd(one.delta(name), compute_uv=False) ** 2 for name in SHAPES]
    expected = sum(each[rank:].sum() for each in squares) / sum(each.sum() for each in squares)
    assert energy_above(one, rank) == pytest.approx(expected, abs=1e-6)


def test_an_adapter_without_a_move_has_no_energy() -> None:
    (one,) = adapters((5,))
    assert energy_above(one.scaled(0.0), 2) == 0


def test_hetlora_pads_with_zeros_and_weighs_by_the_norm_of_the_update() -> None:
    small, large = adapters((2, 5), scaling=2.0)
    norms = [
        float(np.sqrt(sum(np.sum(one.delta(name) ** 2) for name in SHAPES)))
        for one in (small, large)
    ]
    assert product_norm(small) == pytest.approx(norms[0], rel=1e-5)
    share = norms[0] / sum(norms)
    mean = zero_padded_mean([small, large], 5)
    for name in SHAPES:
        padded = np.pad(small.layers[name].a, ((0, 3), (0, 0)))
        expected = share * padded + (1 - share) * large.layers[name].a
        np.testing.assert_allclose(mean.layers[name].a, expected, rtol=1e-4, atol=1e-6)
        padded = np.pad(small.layers[name].b, ((0, 0), (0, 3)))
        expected = share * padded + (1 - share) * large.layers[name].b
        np.testing.assert_allclose(mean.layers[name].b, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rank", [2, 6])
def test_flexlora_is_the_decomposition_of_the_dense_mean(rank: int) -> None:
    given = adapters((2, 5), scaling=0.5)
    mean = decomposed_mean(given, [2, 1], rank)
    for name in SHAPES:
        left, values, right = np.linalg.svd(dense_mean(given, [2, 1], name), full_matrices=False)
        best = (left[:, :rank] * values[:rank]) @ right[:rank]
        np.testing.assert_allclose(mean.delta(name), best, rtol=1e-3, atol=1e-4)
        rows = mean.layers[name].a
        np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-4)


def test_floras_stack_is_the_mean_product_exactly_and_sums_of_stacks_add_up() -> None:
    given = adapters((2, 5), scaling=0.5)
    stacked = stack(given, [2, 1])
    assert stacked.rank == 7
    twice = joined([stacked, stacked])
    for name in SHAPES:
        mean = dense_mean(given, [2, 1], name)
        np.testing.assert_allclose(stacked.delta(name), mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(twice.delta(name), 2 * mean, rtol=1e-4, atol=1e-5)
