"""The cap of the tail on rows of real width."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_logits_processor.alignment.align import Aligned, align
from vllm_logits_processor.alignment.groups import ExpertTopK, Remainder
from vllm_logits_processor.alignment.maps import NOTHING, maps_from_firsts
from vllm_logits_processor.arrays import Float64Array
from vllm_logits_processor.step_factors import StepFactors
from vllm_logits_processor.testing.alignment import factors_of

SIZE = 5000
SAME = maps_from_firsts(np.arange(SIZE, dtype=np.int32), np.arange(SIZE, dtype=np.int32))


def softmax(logits: torch.Tensor) -> Float64Array:
    return torch.softmax(logits.double(), dim=-1).numpy()


def q_of(aligned: Aligned, logits: torch.Tensor) -> Float64Array:
    return softmax(logits) * factors_of(aligned, logits.shape[1])


def top_of(listed: dict[int, float], rows: int = 1) -> ExpertTopK:
    return ExpertTopK(
        token_ids=np.tile(list(listed), (rows, 1)),
        logprobs=np.log(np.tile(list(listed.values()), (rows, 1))),
    )


def row_of(probabilities: dict[int, float], columns: int = SIZE) -> torch.Tensor:
    """Return logits; the tokens that are not named share the rest."""
    rest = (1 - sum(probabilities.values())) / (columns - len(probabilities))
    p = np.full(columns, rest)
    p[list(probabilities)] = list(probabilities.values())
    return torch.from_numpy(np.log(p)[None].astype(np.float32))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.floats(1, 8), st.integers(1, 30))
def test_no_unlisted_token_is_likelier_than_a_listed_one(
    seed: int, spread: float, width: int
) -> None:
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.normal(0, spread, (2, SIZE)).astype(np.float32))
    logits[:, torch.from_numpy(random.integers(0, SIZE, 500))] = -torch.inf
    expert = np.sort(random.dirichlet(np.full(SIZE, 0.02)))[::-1][:width]
    listed = dict(zip(random.permutation(SIZE)[:width].tolist(), expert.tolist(), strict=True))
    top = top_of(listed, rows=2)
    q = q_of(align(logits, np.arange(2), top, SAME), logits)
    assert q.sum(axis=1) == pytest.approx([1.0, 1.0], abs=1e-5)
    assert (q[np.isneginf(logits.numpy())] == 0).all()
    unlisted = np.delete(np.arange(SIZE), list(listed))
    for row in range(2):
        feasible = [each for each in listed if softmax(logits)[row, each] > 0]
        if not feasible:
            continue
        scale = q[row, feasible[0]] / listed[feasible[0]]
        assert q[row, unlisted].max() <= expert.min() * scale * (1 + 1e-4)


def test_where_nothing_is_above_the_cap_the_tail_keeps_one_factor() -> None:
    logits = row_of({0: 0.3, 1: 0.2})
    aligned = align(logits, np.arange(1), top_of({0: 0.5, 1: 0.1}), SAME)
    assert not len(aligned.groups.single_row)
    assert q_of(aligned, logits)[0, 2:] == pytest.approx(np.full(SIZE - 2, 0.4 / (SIZE - 2)), 1e-4)


@pytest.mark.parametrize("rest", [1e-3, 1e-7, 1e-10])
def test_a_tail_of_one_likely_token_is_shared_out_among_the_rest(rest: float) -> None:
    """The rest is far below the rounding errors of the sums around it."""
    logits = row_of({0: 0.4, 1: 0.1, 2: 0.5 - rest})
    q = q_of(align(logits, np.arange(1), top_of({0: 0.6, 1: 0.01}), SAME), logits)[0]
    assert q[2] == pytest.approx(0.01, rel=1e-4)
    assert q[3:] == pytest.approx(np.full(SIZE - 3, 0.38 / (SIZE - 3)), rel=1e-3)


def test_any_number_of_tokens_may_be_held_down() -> None:
    """More than there is room for at first."""
    many = range(2, 352)
    logits = row_of({0: 0.4, 1: 0.1, **dict.fromkeys(many, 0.498 / len(many))})
    aligned = align(logits, np.arange(1), top_of({0: 0.6, 1: 0.001}), SAME)
    q = q_of(aligned, logits)[0]
    assert q[many] == pytest.approx(np.full(len(many), 0.001), rel=1e-4)
    assert q[352:] == pytest.approx(np.full(SIZE - 352, 0.049 / (SIZE - 352)), rel=1e-3)


def test_what_finds_no_room_goes_to_all_in_proportion() -> None:
    logits = row_of({0: 0.4, 1: 0.1, 2: 0.3, 3: 0.1})
    logits[:, 4:] = -torch.inf
    q = q_of(align(logits, np.arange(1), top_of({0: 0.6, 1: 0.01}), SAME), logits)[0]
    assert q[:4] == pytest.approx(np.array([0.6, 0.01, 0.01, 0.01]) / 0.63, rel=1e-4)
    assert (q[4:] == 0).all()


def test_where_nothing_listed_is_feasible_the_tail_is_the_hosts() -> None:
    logits = row_of({2: 0.3, 3: 0.1})
    logits[:, :2] = -torch.inf
    q = q_of(align(logits, np.arange(1), top_of({0: 0.6, 1: 0.01}), SAME), logits)
    assert q == pytest.approx(softmax(logits), rel=1e-4)


def test_columns_without_a_token_are_capped_like_others() -> None:
    logits = row_of({0: 0.4, 1: 0.1, SIZE + 3: 0.3}, SIZE + 8)
    aligned = align(logits, np.arange(1), top_of({0: 0.6, 1: 0.01}), SAME)
    assert q_of(aligned, logits)[0, SIZE + 3] == pytest.approx(0.01, rel=1e-4)
    assert StepFactors(aligned).of(0, SIZE + 3) * 0.3 == pytest.approx(0.01, rel=1e-4)


def test_there_is_no_cap_beside_remainders_nor_below_an_incomplete_list() -> None:
    logits = row_of({0: 0.4, 1: 0.1, 2: 0.3})
    top = top_of({0: 0.6, 1: 0.01})
    beside = replace(
        top,
        token_ids=np.append(top.token_ids, [[NOTHING]], axis=1),
        logprobs=np.append(top.logprobs, np.log([[0.1]]), axis=1),
        remainders=(Remainder(row=0, place=2, tokens=np.array([5])),),
    )
    for each, missing in ((beside, 0.29), (top_of({0: 0.6, 1: 1e-8}), 0.4)):
        q = q_of(align(logits, np.arange(1), each, SAME), logits)
        assert q[0, 2] == pytest.approx(missing * 0.3 / 0.5, rel=1e-3)
