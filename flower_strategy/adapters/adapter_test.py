from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from flower_strategy.adapters.adapter import (
    AdapterError,
    AdapterState,
    LoraFactors,
    initial_adapter,
    lora_scaling,
)

SHAPES = {"layers.0.q_proj": (6, 10), "layers.0.up_proj": (14, 10)}


def random_adapter(rank: int, seed: int = 0, scaling: float = 1.0) -> AdapterState:
    generator = np.random.default_rng(seed)
    return AdapterState(
        {
            name: LoraFactors(
                b=generator.normal(size=(out, rank)).astype(np.float32),
                a=generator.normal(size=(rank, inner)).astype(np.float32),
            )
            for name, (out, inner) in SHAPES.items()
        },
        scaling,
    )


def test_scaling_follows_alpha_and_rslora() -> None:
    assert lora_scaling(alpha=0, rank=8) == 1.0
    assert lora_scaling(alpha=16, rank=8) == 2.0
    assert lora_scaling(alpha=16, rank=4, rslora=True) == 8.0


def test_initial_adapters_of_all_ranks_share_their_rows_and_move_nothing() -> None:
    small = initial_adapter(SHAPES, rank=3, seed=7)
    large = initial_adapter(SHAPES, rank=5, seed=7)
    other = initial_adapter(SHAPES, rank=5, seed=8)
    for name in SHAPES:
        assert np.array_equal(small.layers[name].a, large.layers[name].a[:3])
        assert not np.array_equal(other.layers[name].a, large.layers[name].a)
        assert np.ptp(large.layers[name].a) > 0
        assert not large.delta(name).any()
    assert not np.array_equal(large.layers["layers.0.q_proj"].a, large.layers["layers.0.up_proj"].a)


def test_a_larger_rank_keeps_the_product_and_gives_the_new_terms_a_gradient() -> None:
    adapter = random_adapter(2)
    fill = initial_adapter(SHAPES, rank=6, seed=1)
    grown = adapter.resized(5, fill=fill)
    for name in SHAPES:
        assert grown.layers[name].rank == 5
        assert np.array_equal(grown.delta(name), adapter.delta(name))
        assert np.array_equal(grown.layers[name].a[2:], fill.layers[name].a[2:5])
        assert not grown.layers[name].b[:, 2:].any()


def test_a_smaller_rank_keeps_the_first_terms() -> None:
    adapter = random_adapter(4)
    cut = adapter.resized(1)
    factors = adapter.layers["layers.0.q_proj"]
    np.testing.assert_allclose(
        cut.delta("layers.0.q_proj"), np.outer(factors.b[:, 0], factors.a[0]), rtol=1e-6
    )


def test_another_scaling_keeps_the_product() -> None:
    adapter = random_adapter(3, scaling=2.0)
    same = adapter.with_scaling(0.25)
    assert same.scaling == 0.25
    for name in SHAPES:
        np.testing.assert_allclose(same.delta(name), adapter.delta(name), rtol=1e-5, atol=1e-6)


def test_balancing_keeps_the_product_and_gives_the_lengths_that_training_began_with() -> None:
    initial = initial_adapter(SHAPES, rank=5, seed=3)
    adapter = random_adapter(2).scaled(1e-4).resized(4, fill=initial)
    balanced = adapter.balanced(initial)
    for name in SHAPES:
        np.testing.assert_allclose(balanced.delta(name), adapter.delta(name), rtol=1e-4, atol=1e-9)
        lengths = np.linalg.norm(balanced.layers[name].a, axis=1)
        begun = np.linalg.norm(initial.layers[name].a[:4], axis=1)
        np.testing.assert_allclose(lengths, begun, rtol=1e-5)
    untrained = initial.balanced(initial)
    for name in SHAPES:
        assert np.array_equal(untrained.layers[name].a, initial.layers[name].a)


def test_a_flower_record_gives_back_what_went_in() -> None:
    adapter = random_adapter(3)
    back = AdapterState.from_arrays(adapter.to_arrays(), scaling=adapter.scaling)
    assert back.shapes == adapter.shapes
    assert back.num_bytes == adapter.num_bytes == 4 * 3 * (6 + 10 + 14 + 10)
    for name in SHAPES:
        assert np.array_equal(back.delta(name), adapter.delta(name))


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"x.lora_A": np.zeros((2, 3), np.float32)}, "no '.lora_B'"),
        ({"weight": np.zeros((2, 3), np.float32)}, "no LoRA factor"),
        (
            {"x.lora_A": np.zeros((2, 3), np.float32), "x.lora_B": np.zeros((4, 1), np.float32)},
            "one rank",
        ),
        (
            {"x.lora_A": np.zeros((2, 3), np.int64), "x.lora_B": np.zeros((4, 2), np.int64)},
            "floats are needed",
        ),
    ],
)
def test_arrays_that_are_no_adapter_are_named(
    arrays: dict[str, NDArray[Any]], complaint: str
) -> None:
    record = ArrayRecord({key: Array(value) for key, value in arrays.items()})
    with pytest.raises(AdapterError, match=complaint):
        AdapterState.from_arrays(record)
