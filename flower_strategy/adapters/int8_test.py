from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_strategy.adapters.adapter import AdapterError, AdapterState, LoraFactors
from flower_strategy.adapters.int8 import (
    SCALES_KEY,
    bytes_per_rank,
    decode,
    encode,
    encoded_bytes,
    rounded,
)

SHAPES = {"layers.1.up_proj": (14, 10), "layers.0.q_proj": (6, 10)}


def adapter(rank: int = 3, *, size: float = 1.0, seed: int = 0) -> AdapterState:
    generator = np.random.default_rng(seed)
    return AdapterState(
        {
            name: LoraFactors(
                b=(size * generator.normal(size=(rows, rank))).astype(np.float32),
                a=(size * generator.normal(size=(rank, columns))).astype(np.float32),
            )
            for name, (rows, columns) in SHAPES.items()
        },
        scaling=2.0,
    )


@settings(deadline=None)
@given(seed=st.integers(0, 1000), rank=st.integers(1, 5), exponent=st.integers(-30, 20))
def test_every_entry_is_at_most_half_a_scale_off(seed: int, rank: int, exponent: int) -> None:
    given_ = adapter(rank, size=2.0**exponent, seed=seed)
    found = decode(encode(given_), scaling=given_.scaling)
    for name, factors in given_.layers.items():
        back = found.layers[name]
        for rows, others in ((factors.a, back.a), (factors.b.T, back.b.T)):
            largest = np.abs(rows).max(axis=1, keepdims=True).astype(np.float64)
            # float16 has 11 bits, and below 6e-5 steps of 6e-8.
            scale = np.maximum(largest / 127 * (1 + 2**-10), largest / 127 + 2**-24)
            error = np.abs(others.astype(np.float64) - rows.astype(np.float64))
            assert (error <= 0.5 * scale * (1 + 1e-6)).all()
    assert found.scaling == 2.0


def test_both_ends_compute_with_the_same_numbers() -> None:
    record = encode(adapter(seed=4))
    scales = record[SCALES_KEY].numpy().astype(np.float64)
    found = decode(record)
    # In the order of the layers' names, a before b; float64 holds the products exactly.
    place = 0
    for name in sorted(SHAPES):
        a = record[f"{name}.lora_A"].numpy() * scales[place : place + 3, None]
        b = record[f"{name}.lora_B"].numpy() * scales[place + 3 : place + 6]
        place += 6
        assert np.array_equal(found.layers[name].a.astype(np.float64), a)
        assert np.array_equal(found.layers[name].b.astype(np.float64), b)
    once = rounded(adapter(seed=4))
    assert all(np.array_equal(once.layers[n].b, found.layers[n].b) for n in SHAPES)


def test_rows_and_columns_of_zeros_stay_zero_beside_others() -> None:
    whole = adapter()
    for factors in whole.layers.values():
        factors.b[:, 1] = 0.0
        factors.a[2] = 0.0
    found = rounded(whole)
    for factors in found.layers.values():
        assert not factors.b[:, 1].any()
        assert not factors.a[2].any()
        assert factors.b[:, 0].any()
    zero = AdapterState({"q": LoraFactors(b=np.zeros((3, 1), "f"), a=np.zeros((1, 4), "f"))})
    assert not rounded(zero).layers["q"].a.any()


def test_the_largest_number_of_a_term_is_never_cut() -> None:
    for size in (1e-6, 3e-5, 0.1, 8.0e6):
        factors = LoraFactors(b=np.full((3, 1), -size, "f"), a=np.full((1, 4), size, "f"))
        found = rounded(AdapterState({"q": factors})).layers["q"]
        assert np.abs(found.a - size).max() <= 0.5 * (size / 127 * 1.001 + 2**-24)
        assert np.array_equal(found.b[0], -found.a[0, :1])


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 9e6])
def test_numbers_that_do_not_fit_are_refused(value: float) -> None:
    whole = adapter()
    whole.layers["layers.0.q_proj"].b[2, 1] = value
    with pytest.raises(AdapterError, match=r"layers\.0\.q_proj\.lora_B holds .* up to 8\.3"):
        encode(whole)


def test_the_sizes_are_those_of_the_arrays() -> None:
    whole = adapter(5)
    record = encode(whole)
    in_arrays = sum(array.numpy().nbytes for array in record.values())
    assert encoded_bytes(whole) == in_arrays == 5 * bytes_per_rank(SHAPES)
    assert encoded_bytes(whole) < 0.35 * whole.num_bytes


def test_layers_may_differ_in_rank() -> None:
    small, large = adapter(1), adapter(4)
    name, other = SHAPES
    mixed = AdapterState({name: small.layers[name], other: large.layers[other]})
    found = rounded(mixed)
    assert [found.layers[name].rank, found.layers[other].rank] == [1, 4]


def _changed(key: str, array: Any) -> ArrayRecord:
    record = encode(adapter())
    if array is None:
        del record[key]
    else:
        record[key] = Array(np.asarray(array))
    return record


A, B = "layers.0.q_proj.lora_A", "layers.0.q_proj.lora_B"


@pytest.mark.parametrize(
    ("key", "array", "said"),
    [
        (SCALES_KEY, None, "row of float16, got none"),
        (SCALES_KEY, np.ones(12, np.float32), "row of float16, got float32"),
        (SCALES_KEY, np.ones((3, 4), np.float16), r"shape \(3, 4\)"),
        (SCALES_KEY, np.ones(11, np.float16), "has 11 scales, 12 are needed"),
        (SCALES_KEY, np.ones(13, np.float16), "has 13 scales, 12 are needed"),
        (SCALES_KEY, np.full(12, np.inf, np.float16), "not finite"),
        (SCALES_KEY, np.full(12, -1, np.float16), "negative"),
        (A, None, "no 'layers.0.q_proj.lora_A'"),
        (A, np.ones((3, 10), np.float32), "matrix of int8, got float32"),
        (B, np.ones(3, np.int8), r"matrix of int8, got int8 of shape \(3,\)"),
        (B, np.ones((6, 2), np.int8), "one rank"),
        ("layers.0.q_proj", np.ones((3, 3), np.int8), "is no LoRA factor"),
    ],
)
def test_a_record_that_is_no_such_adapter_is_refused(key: str, array: Any, said: str) -> None:
    with pytest.raises(AdapterError, match=said):
        decode(_changed(key, array))
