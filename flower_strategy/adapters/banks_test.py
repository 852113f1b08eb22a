import numpy as np
import pytest

from flower_strategy.adapters.adapter import AdapterState, LoraFactors
from flower_strategy.adapters.banks import combine, share_globally, with_momentum

SHAPES = {"x": (24, 16), "y": (10, 30)}


def adapter(seed: int, rank: int = 2) -> AdapterState:
    generator = np.random.default_rng(seed)
    return AdapterState(
        {
            name: LoraFactors(
                b=generator.normal(size=(rows, rank)).astype(np.float32),
                a=generator.normal(size=(rank, columns)).astype(np.float32),
            )
            for name, (rows, columns) in SHAPES.items()
        },
        scaling=1.0 + seed,
    )


def assert_equal(found: AdapterState, wanted: dict[str, np.ndarray]) -> None:
    for name, dense in wanted.items():
        np.testing.assert_allclose(found.delta(name), dense, atol=1e-4 * np.abs(dense).max())


def test_a_combination_is_the_weighted_sum_of_the_updates() -> None:
    one, two = adapter(0), adapter(1, rank=3)
    found = combine([(0.25, one), (-2.0, two)], rank=5)
    assert_equal(found.adapter, {n: 0.25 * one.delta(n) - 2.0 * two.delta(n) for n in SHAPES})
    assert found.discarded_energy == pytest.approx(0.0, abs=1e-9)


def test_the_global_share_mixes_in_the_mean_over_all_clusters_by_examples() -> None:
    means, weights = {"a": adapter(0), "b": adapter(1)}, {"a": 30.0, "b": 10.0}
    found = share_globally(means, weights, share=0.2, rank=4)
    for name in means:
        wanted = {
            n: 0.8 * means[name].delta(n)
            + 0.2 * (0.75 * means["a"].delta(n) + 0.25 * means["b"].delta(n))
            for n in SHAPES
        }
        assert_equal(found[name], wanted)
    assert share_globally(means, weights, share=0.0, rank=4) == means
    alone = {"a": means["a"]}
    assert share_globally(alone, weights, share=0.2, rank=4) == alone


def test_momentum_follows_its_recurrence() -> None:
    bank, velocity = adapter(9), None
    dense = {n: bank.delta(n).astype(np.float64) for n in SHAPES}
    dense_velocity = {n: np.zeros(SHAPES[n]) for n in SHAPES}
    for seed in (1, 2, 3):
        mean = adapter(seed)
        step = with_momentum(bank, mean, velocity, momentum=0.5, rank=16)
        bank, velocity = step.bank, step.velocity
        for n in SHAPES:
            dense_velocity[n] = 0.5 * dense_velocity[n] + mean.delta(n) - dense[n]
            dense[n] = dense[n] + dense_velocity[n]
        assert_equal(bank, dense)
        assert_equal(velocity, dense_velocity)
