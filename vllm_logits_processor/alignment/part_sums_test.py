"""The compiled arithmetic against NumPy's; whole steps are compared in `align_test`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_logits_processor.alignment.part_sums import add_up, pairwise_sum


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 1000), st.integers(0, 5))
def test_a_sum_has_the_bits_of_numpys(seed: int, count: int, begin: int) -> None:
    values = np.random.default_rng(seed).normal(0, 1e3, begin + count + 3)
    assert pairwise_sum(values, begin, count) == values[begin : begin + count].sum()


def test_each_row_sums_to_its_own_groups_and_singles() -> None:
    table = np.array([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    singles = np.array([[10.0, 20.0, 40.0, 80.0], [0.0, 0.0, 0.0, 0.0]])
    row, group = np.array([0, 0, 1, 1]), np.array([-1, 1, -1, 2])
    held, sums = np.array([False, False, True, False]), np.empty(2)
    add_up(table.reshape(-1), singles, 2, row, group, held, sums)
    # What a group holds by f is in its sum already.
    assert sums == pytest.approx([1 + 2 + 10, 3 + 4 + 40])
