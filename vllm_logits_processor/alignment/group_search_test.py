"""The groups of a step, as sets of tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_logits_processor.alignment.group_search import with_more_singles
from vllm_logits_processor.alignment.groups import ExpertTopK, Remainder, step_groups
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps, maps_from_firsts
from vllm_logits_processor.alignment.scratch import scratch
from vllm_logits_processor.alignment.tail import tail_caps


def some_step(seed: int) -> tuple[AlignmentMaps, ExpertTopK]:
    random = np.random.default_rng(seed)
    hosts, experts, rows = (int(random.integers(2, most)) for most in (40, 20, 5))
    width = int(random.integers(1, experts + 1))
    maps = maps_from_firsts(
        random.integers(NOTHING, experts, hosts).astype(np.int32),
        random.integers(NOTHING, hosts, experts).astype(np.int32),
    )
    ids = np.stack([random.permutation(experts)[:width] for _ in range(rows)])
    ids[random.random(ids.shape) < 0.2] = NOTHING
    rests = tuple(
        Remainder(
            row=row,
            place=width + at,
            tokens=random.permutation(hosts)[: random.integers(hosts)],
            known=int(random.integers(3)),
        )
        # Remainders need not be in the order of their rows.
        for row in random.permutation(rows).tolist()
        for at in range(random.integers(3))
    )
    ids = np.append(ids, np.full((rows, 2), NOTHING), axis=1)
    logprobs = np.log(random.dirichlet(np.ones(ids.shape[1]), rows))
    return maps, ExpertTopK(token_ids=ids, logprobs=logprobs, remainders=rests)


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_groups_are_those_of_the_maps(seed: int) -> None:
    maps, top = some_step(seed)
    groups = step_groups(maps, top)
    columns = groups.sizes.shape[1]
    by_g = {
        (row, place): int(maps.extra[token])
        for (row, place), token in np.ndenumerate(top.token_ids)
        if token != NOTHING and maps.extra[token] != NOTHING
    }
    links = [(row * columns + place, row, token) for (row, place), token in by_g.items()]
    leaving = {(row, token) for (row, _), token in by_g.items()}
    for rest in top.remainders:
        tokens = rest.tokens.tolist()
        links += [(rest.row * columns + rest.place, rest.row, token) for token in tokens]
        leaving |= {(rest.row, token) for token in tokens[: rest.known]}
    singles = sorted({(row, token) for _, row, token in links})
    assert list(zip(groups.single_row, groups.single_token, strict=True)) == singles
    assert groups.link_group.tolist() == [group for group, *_ in links]
    assert [singles[at] for at in groups.link_single] == [tuple(rest) for _, *rest in links]
    new = np.zeros(len(top.token_ids), dtype=int)
    for (row, token), group in zip(singles, groups.single_group.tolist(), strict=True):
        owner = maps.first_expert[token]
        held = [] if owner == NOTHING else np.flatnonzero(top.token_ids[row] == owner).tolist()
        new[row] += not held
        tail = NOTHING if (row, token) in leaving else row * columns + columns - 1
        assert group == (row * columns + held[0] if held else tail)
    assert groups.sizes[:, -1].tolist() == new.tolist()
    for at, expert in np.ndenumerate(top.token_ids):
        begin = groups.begins[at]
        members = maps.members[begin : begin + groups.sizes[at]].tolist()
        wanted = np.flatnonzero((maps.first_expert == expert) & (expert != NOTHING))
        assert members == wanted.tolist()
    for name, length in (("listed", len(maps.extra)), ("single_of", len(maps.first_expert))):
        assert (scratch.array(name, length, np.int32) == -1).all()


def test_more_singles_are_merged_in_order() -> None:
    row, token, group = np.array([0, 0, 2]), np.array([3, 8, 1]), np.array([5, -1, 7])
    sums, more = np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([[10.0, 20], [40, 50]])
    merged = np.empty((2, 5))
    rows, tokens = np.array([0, 1]), np.array([5, 0])
    found = with_more_singles(row, token, group, rows, tokens, sums, more, merged)
    assert [each.tolist() for each in found] == [
        [0, 0, 0, 1, 2],
        [3, 5, 8, 0, 1],
        [5, -1, -1, -1, 7],
        [0, 2, 4],
        [1, 3],
    ]
    assert merged.tolist() == [[1, 10, 2, 20, 3], [4, 40, 5, 50, 6]]


def test_the_cap_is_the_least_listed_share_of_what_is_missing() -> None:
    maps = maps_from_firsts(np.zeros(9, np.int32), np.zeros(9, np.int32))
    logprobs = np.log([[0.5, 0.1, 0.2], [0.5, 0.4999, 1e-9], [0.1, 0.0001, 1e-9], [0.4, 0.2, 0.1]])
    ids = np.array([[0, 1, NOTHING], [0, 1, 2], [0, 1, NOTHING], [0, 1, 2]])
    rest = Remainder(row=3, place=2, tokens=np.array([1]))
    caps = tail_caps(ExpertTopK(token_ids=ids, logprobs=logprobs, remainders=(rest,)), maps)
    assert caps == pytest.approx([0.1 / 0.2, np.inf, np.inf, np.inf])
