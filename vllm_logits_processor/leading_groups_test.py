"""Greedy decoding by group, against a sum over all tokens in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from floe_plugins.routers import ConstantRouter
from vllm_logits_processor.alignment.align import Aligned, align
from vllm_logits_processor.alignment.groups import ExpertTopK, Remainder
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps, maps_from_firsts
from vllm_logits_processor.alignment.packed import Packed
from vllm_logits_processor.arrays import IntArray
from vllm_logits_processor.cells import PARTS, FusedCells, Gains
from vllm_logits_processor.fusion import Weights, fused_cells, weigh
from vllm_logits_processor.testing.alignment import group_of

HOST, EXPERT = 40, 12


def random_maps(generator: np.random.Generator) -> AlignmentMaps:
    firsts = generator.integers(NOTHING, EXPERT, HOST).astype(np.int32)
    return maps_from_firsts(firsts, generator.integers(0, HOST, EXPERT).astype(np.int32))


def random_top(generator: np.random.Generator, rows: int) -> ExpertTopK:
    ids = np.stack([generator.permutation(EXPERT)[:4] for _ in range(rows)])
    logprobs = np.log(generator.dirichlet([0.5] * 6, size=rows)[:, :4] + 1e-9)
    remainder = Remainder(row=rows - 1, place=3, tokens=generator.permutation(HOST)[:5])
    ids[rows - 1, 3] = NOTHING
    return ExpertTopK(token_ids=ids, logprobs=logprobs, remainders=(remainder,))


def members(maps: AlignmentMaps, top: ExpertTopK, place: int) -> list[IntArray]:
    """Return the host tokens of each of a row's groups."""
    rests = {rest.place: rest.tokens for rest in top.remainders if rest.row == place}
    return [
        rests[at] if token == NOTHING else np.array(sorted(group_of(maps, int(token))), np.int64)
        for at, token in enumerate(top.token_ids[place].tolist())
    ]


def both_ways(
    logits: torch.Tensor,
    rows: IntArray,
    aligned: Aligned,
    weights: Weights,
    greedy: npt.NDArray[np.bool_] | None,
) -> torch.Tensor:
    """Return the fused logits, which are the same written in place and sent to other ranks."""
    here, there = logits.clone(), logits.clone()
    cells = fused_cells(there, rows, aligned, weights, greedy=greedy)
    assert cells.gains is not None
    sent = Packed.read(PARTS, cells.gains.packed().data)
    FusedCells(Gains.unpacked(sent, aligned.maps), aligned.maps).write(there)
    in_place = fused_cells(here, rows, aligned, weights, greedy=greedy)
    in_place.write(here)
    assert torch.equal(here, there)
    in_place.write(here)
    assert torch.equal(here, there)
    return here


@settings(deadline=None)  # the first call compiles
@given(seed=st.integers(0, 10_000), odds=st.sampled_from([-2.0, 0.0, 2.0]))
def test_the_likeliest_group_comes_first_and_then_its_likeliest_token(
    seed: int, odds: float
) -> None:
    generator = np.random.default_rng(seed)
    maps, rows = random_maps(generator), np.array([2, 0, 3])
    logits = torch.from_numpy(generator.normal(size=(4, HOST)).astype(np.float32) * 2)
    logits[2, ::3] = -torch.inf
    top = random_top(generator, len(rows))
    aligned = align(logits, rows, top, maps)
    weights = weigh(ConstantRouter(name="some", value=odds), aligned, np.zeros(3))
    greedy = np.array([True, False, True])
    fused = both_ways(logits, rows, aligned, weights, None)
    lifted = both_ways(logits, rows, aligned, weights, greedy)
    assert torch.equal(lifted[[1, 0]], fused[[1, 0]])
    for place in np.flatnonzero(greedy):
        before, after = (each[rows[place]].double().numpy() for each in (fused, lifted))
        groups = members(maps, top, int(place))
        sums = np.array([np.logaddexp.reduce(before[tokens]) for tokens in groups])
        leader = groups[int(sums.argmax())]
        best = leader[before[leader].argmax()]
        changed = np.flatnonzero(before != after)
        assert set(changed) <= {best}
        assert after[best] == pytest.approx(sums.max(), abs=1e-5)
        # A token of the tail stands for itself.
        inside = np.unique(np.concatenate(groups))
        outside = np.setdiff1d(np.arange(HOST), inside)
        expected = (
            best if sums.max() >= before[outside].max() else outside[before[outside].argmax()]
        )
        assert after[expected] == pytest.approx(after.max(), abs=1e-5)


def test_a_split_group_beats_a_single_token_that_each_of_its_parts_loses_to() -> None:
    # 0 to 2 spell what the expert means by 0; 3 is its token 1.
    maps = maps_from_firsts(np.array([0, 0, 0, 1], np.int32), np.array([0, 3], np.int32))
    logits = torch.log(torch.tensor([[0.23, 0.15, 0.13, 0.49]]))
    top = ExpertTopK(token_ids=np.array([[0, 1]]), logprobs=np.log([[0.51, 0.43]]))
    rows = np.array([0])
    aligned = align(logits, rows, top, maps)
    weights = weigh(ConstantRouter(name="expert", value=np.inf), aligned, np.zeros(1))
    sampled = both_ways(logits, rows, aligned, weights, np.array([False]))
    assert int(sampled.argmax()) == 3
    taken = both_ways(logits, rows, aligned, weights, np.array([True]))
    assert int(taken.argmax()) == 0
    assert torch.equal(taken[0, 1:], sampled[0, 1:])


def test_equal_vocabularies_change_no_bit() -> None:
    same = np.arange(HOST, dtype=np.int32)
    maps = maps_from_firsts(same, same)
    generator = np.random.default_rng(3)
    logits = torch.from_numpy(generator.normal(size=(2, HOST)).astype(np.float32))
    rows = np.array([0, 1])
    top = ExpertTopK(
        token_ids=np.array([[1, 5, 9], [3, 2, 7]]), logprobs=np.log([[0.4, 0.3, 0.2]] * 2)
    )
    aligned = align(logits, rows, top, maps)
    weights = weigh(ConstantRouter(name="mean", value=0.0), aligned, np.zeros(2))
    plain, greedy = logits.clone(), logits.clone()
    fused_cells(plain, rows, aligned, weights).write(plain)
    fused_cells(greedy, rows, aligned, weights, greedy=np.ones(2, np.bool_)).write(greedy)
    assert torch.equal(plain, greedy)


@pytest.mark.parametrize("odds", [-np.inf, np.nan])
def test_where_the_expert_has_no_weight_the_row_stays_the_hosts(odds: float) -> None:
    generator = np.random.default_rng(4)
    maps, rows = random_maps(generator), np.array([0, 1])
    logits = torch.from_numpy(generator.normal(size=(2, HOST)).astype(np.float32))
    aligned = align(logits, rows, random_top(generator, 2), maps)
    weights = weigh(ConstantRouter(name="host", value=odds), aligned, np.zeros(2))
    assert torch.equal(both_ways(logits, rows, aligned, weights, np.ones(2, np.bool_)), logits)
