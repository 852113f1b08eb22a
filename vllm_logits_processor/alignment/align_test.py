"""The step's maths against a direct transcription of its definition, and its five properties."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from floe_plugins.routers import BUILT_IN_ROUTERS, ConstantRouter
from vllm_logits_processor.alignment.align import Aligned, RowSums, align, row_sums
from vllm_logits_processor.alignment.groups import ExpertTopK, Remainder, step_groups
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps, maps_from_firsts
from vllm_logits_processor.alignment.tail import LEAST_MISSING, tail_caps
from vllm_logits_processor.arrays import Float64Array
from vllm_logits_processor.fusion import weigh
from vllm_logits_processor.step_factors import StepFactors
from vllm_logits_processor.testing.alignment import factors_of, fuse, group_of

ROUTERS = {router.name: router for router in BUILT_IN_ROUTERS}


@st.composite
def random_pairs(draw: st.DrawFn) -> tuple[AlignmentMaps, torch.Tensor, ExpertTopK]:
    """Two made-up vocabularies with arbitrary maps, host rows and an expert's top-K."""
    hosts, experts = draw(st.integers(2, 30)), draw(st.integers(2, 20))
    rows, seed = draw(st.integers(1, 3)), draw(st.integers(0, 2**31))
    width = draw(st.integers(1, experts))
    random = np.random.default_rng(seed)
    maps = maps_from_firsts(
        random.integers(NOTHING, experts, hosts).astype(np.int32),
        random.integers(NOTHING, hosts, experts).astype(np.int32),
    )
    logits = torch.from_numpy(random.normal(0, 4, (rows, hosts)).astype(np.float32))
    masked = random.random((rows, hosts)) < draw(st.sampled_from([0.0, 0.3]))
    masked[:, random.integers(hosts)] = False
    logits[torch.from_numpy(masked)] = -torch.inf
    probabilities = random.dirichlet(np.full(experts, 0.5), rows)
    ids = np.argsort(-probabilities, axis=1)[:, :width]
    logprobs = np.log(np.maximum(np.take_along_axis(probabilities, ids, 1), 1e-300))
    short = random.random((rows, width)) < 0.1
    ids, logprobs = np.where(short, NOTHING, ids), np.where(short, -np.inf, logprobs)
    remainders = tuple(
        Remainder(
            row=row, place=width + at, tokens=random.permutation(hosts)[: random.integers(hosts)]
        )
        for row in range(rows)
        for at in range(draw(st.integers(0, 2)))
    )
    if remainders:
        more = np.full((rows, 2), -np.inf)
        for rest in remainders:
            more[rest.row, rest.place - width] = np.log(random.uniform(0.01, 0.3))
        ids = np.append(ids, np.full((rows, 2), NOTHING), axis=1)
        logprobs = np.append(logprobs + np.log(0.4), more, axis=1)
    return maps, logits, ExpertTopK(token_ids=ids, logprobs=logprobs, remainders=remainders)


def softmax(logits: torch.Tensor) -> Float64Array:
    return torch.softmax(logits.double(), dim=-1).numpy()


def defined_q(host: Float64Array, maps: AlignmentMaps, top: ExpertTopK) -> Float64Array:
    """Return q of one row, transcribed from the definition; `host` if nothing is feasible."""
    ids, expert = top.token_ids[0].tolist(), np.exp(top.logprobs[0])
    groups = [
        (group_of(maps, token), mass) for token, mass in zip(ids, expert, strict=True) if token >= 0
    ]
    known = set().union(*(members for members, _ in groups)) if groups else set()
    groups += [(set(rest.tokens.tolist()), float(expert[rest.place])) for rest in top.remainders]
    tail = sorted(set(range(len(host))) - known)
    missing = max(0.0, 1.0 - sum(mass for _, mass in groups))
    groups = [(members, mass) for members, mass in groups if sum(host[list(members)]) > 0]
    q = np.zeros(len(host))
    for members, mass in groups:
        q[list(members)] += mass * host[list(members)] / sum(host[list(members)])
    if sum(host[tail]) > 0:
        listed = [mass for token, mass in zip(ids, expert, strict=True) if token >= 0 and mass > 0]
        cap = min(listed, default=np.inf)
        enough = missing >= LEAST_MISSING and cap * len(maps.first_host) >= missing
        bounded = enough and sum(q) > 0 and not top.remainders
        q[tail] += water_filled(host[tail], missing, cap if bounded else np.inf)
    return q / sum(q) if sum(q) > 0 else host


def water_filled(shape: Float64Array, mass: float, cap: float) -> Float64Array:
    """Share out `mass` in a shape, at most `cap` each: the level is found by halving."""
    if mass == 0:
        return np.zeros_like(shape)
    if np.count_nonzero(shape) * cap <= mass:
        return np.where(shape > 0, cap, 0.0)
    if np.isinf(cap):
        return np.asarray(shape / shape.sum() * mass)
    low, high = 0.0, cap / shape[shape > 0].min()
    for _ in range(200):
        middle = (low + high) / 2
        if np.minimum(middle * shape, cap).sum() < mass:
            low = middle
        else:
            high = middle
    return np.asarray(np.minimum(high * shape, cap))


def entropy(masses: Float64Array) -> float:
    positive = masses[masses > 0]
    return float(-(positive * np.log(positive)).sum())


def q_of(aligned: Aligned, logits: torch.Tensor) -> Float64Array:
    return softmax(logits) * factors_of(aligned, logits.shape[1])


@settings(deadline=None, max_examples=300)
@given(random_pairs())
def test_q_and_signals_equal_the_definition(
    case: tuple[AlignmentMaps, torch.Tensor, ExpertTopK],
) -> None:
    maps, logits, top = case
    before = logits.clone()
    aligned = align(logits, np.arange(len(logits)), top, maps)
    assert torch.equal(logits, before)
    host, ours = softmax(logits), q_of(aligned, logits)
    for row in range(len(logits)):
        q = defined_q(host[row], maps, top.row(row))
        assert ours[row] == pytest.approx(q, rel=1e-4, abs=1e-6)
        assert ours[row].sum() == pytest.approx(1.0, abs=1e-5)  # mass
        assert aligned.host_entropy[row] == pytest.approx(entropy(host[row]), abs=1e-4)
        assert aligned.expert_entropy[row] == pytest.approx(entropy(q), abs=1e-4)
        middle = (host[row] + q) / 2
        divergence = entropy(middle) - (entropy(host[row]) + entropy(q)) / 2
        assert aligned.disagreement[row] == pytest.approx(divergence, abs=1e-4)


@settings(deadline=None, max_examples=200)
@given(random_pairs(), st.floats(-8, 8))
def test_fused_logits_are_the_mixture_and_masks_survive(
    case: tuple[AlignmentMaps, torch.Tensor, ExpertTopK], odds: float
) -> None:
    maps, logits, top = case
    before, rows = logits.clone(), np.arange(len(logits))
    aligned = align(logits, rows, top, maps)
    weights = weigh(ConstantRouter(name="test", value=odds), aligned, np.zeros(len(rows)))
    assert weights.host + weights.expert == pytest.approx(np.ones(len(rows)))
    fuse(logits, rows, aligned, weights)
    mixture = weights.host[:, None] * softmax(before) + weights.expert[:, None] * q_of(
        aligned, before
    )
    assert softmax(logits) == pytest.approx(mixture, rel=1e-4, abs=1e-6)
    assert bool(torch.isneginf(logits[torch.isneginf(before)]).all())
    assert not torch.isnan(logits).any()


@settings(deadline=None, max_examples=100)
@given(random_pairs(), st.floats(-8, 8), st.sampled_from([0.25, 0.5, 1.0]))
def test_a_router_may_ask_for_another_mean(
    case: tuple[AlignmentMaps, torch.Tensor, ExpertTopK], odds: float, exponent: float
) -> None:
    """Fused is proportional to ``(w_host p**a + w_expert q**a)**(1/a)``."""

    @dataclass(frozen=True)
    class Meaning(ConstantRouter):
        exponent: float = 1.0

    router = Meaning(name="test", value=odds, exponent=exponent)
    maps, logits, top = case
    before, rows = logits.clone(), np.arange(len(logits))
    aligned = align(logits, rows, top, maps)
    weights = weigh(router, aligned, np.zeros(len(rows)))
    assert weights.exponent == exponent
    fuse(logits, rows, aligned, weights)
    host, q = softmax(before) ** exponent, q_of(aligned, before) ** exponent
    mean = (weights.host[:, None] * host + weights.expert[:, None] * q) ** (1 / exponent)
    expected = mean / mean.sum(axis=1, keepdims=True)
    assert softmax(logits) == pytest.approx(expected, rel=1e-3, abs=1e-5)


@given(st.integers(0, 2**31), st.integers(2, 40))
def test_identity_with_equal_vocabularies(seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    same = np.arange(size, dtype=np.int32)
    probabilities = random.dirichlet(np.full(size, 0.5), 2)
    top = ExpertTopK(
        token_ids=np.tile(np.arange(size), (2, 1)),
        logprobs=np.log(np.maximum(probabilities, 1e-300)),
    )
    logits = torch.from_numpy(random.normal(0, 3, (2, size)).astype(np.float32))
    aligned = align(logits, np.arange(2), top, maps_from_firsts(same, same))
    assert q_of(aligned, logits) == pytest.approx(probabilities, rel=1e-5, abs=1e-7)


@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(1, 8))
def test_neutrality_with_disjoint_groups_of_equal_mass(seed: int, size: int, groups: int) -> None:
    random = np.random.default_rng(seed)
    first_expert = random.integers(0, groups, size).astype(np.int32)
    maps = maps_from_firsts(first_expert, np.full(groups, NOTHING, dtype=np.int32))
    logits = torch.from_numpy(random.normal(0, 3, (1, size)).astype(np.float32))
    masses = np.bincount(first_expert, softmax(logits)[0], minlength=groups)
    top = ExpertTopK(
        token_ids=np.arange(groups)[None], logprobs=np.log(np.maximum(masses, 1e-300))[None]
    )
    before = softmax(logits)
    aligned = align(logits, np.arange(1), top, maps)
    assert aligned.disagreement == pytest.approx([0.0], abs=1e-6)
    fuse(logits, np.arange(1), aligned, weigh(ROUTERS["mean"], aligned, np.zeros(1)))
    assert softmax(logits) == pytest.approx(before, abs=1e-6)


def test_a_row_the_expert_has_no_word_on_keeps_its_bits() -> None:
    maps = maps_from_firsts(np.array([0, 1, 1], np.int32), np.array([0, 1], np.int32))
    logits = torch.tensor([[-torch.inf, 0.3, 0.7], [1.0, 2.0, 3.0]])
    top = ExpertTopK(token_ids=np.array([[0], [0]]), logprobs=np.log([[1.0], [0.5]]))
    aligned = align(logits, np.arange(2), top, maps)
    assert aligned.feasible.tolist() == [False, True]
    before = logits.clone()
    fuse(logits, np.arange(2), aligned, weigh(ROUTERS["expert"], aligned, np.zeros(2)))
    assert torch.equal(logits[0], before[0])
    assert not torch.equal(logits[1], before[1])


def test_only_the_named_rows_change() -> None:
    maps = maps_from_firsts(np.array([0, 1, 1], np.int32), np.array([0, 1], np.int32))
    logits = torch.randn(4, 3)
    before, rows = logits.clone(), np.array([2])
    top = ExpertTopK(token_ids=np.array([[0]]), logprobs=np.log([[0.9]]))
    aligned = align(logits, rows, top, maps)
    fuse(logits, rows, aligned, weigh(ROUTERS["mean"], aligned, np.zeros(1)))
    assert torch.equal(logits[[0, 1, 3]], before[[0, 1, 3]])
    assert not torch.equal(logits[2], before[2])
    assert StepFactors(aligned).of(0, 0) == pytest.approx(0.9 / softmax(before)[2, 0], rel=1e-5)


def test_a_router_that_answers_nan_leaves_the_host() -> None:
    maps = maps_from_firsts(np.array([0, 1], np.int32), np.array([0, 1], np.int32))
    logits = torch.tensor([[0.1, 0.9]])
    before = logits.clone()
    top = ExpertTopK(token_ids=np.array([[0]]), logprobs=np.log([[0.9]]))
    aligned = align(logits, np.arange(1), top, maps)
    fuse(
        logits,
        np.arange(1),
        aligned,
        weigh(ConstantRouter(name="broken", value=float("nan")), aligned, np.zeros(1)),
    )
    assert torch.equal(logits, before)


#: Two groups by f; g adds token 3 to the first and token 0 to the second.
MAPS = maps_from_firsts(
    np.array([0, 0, 1, NOTHING, NOTHING, NOTHING], np.int32), np.array([3, 0], np.int32)
)
TOP = ExpertTopK(token_ids=np.array([[0, 1]]), logprobs=np.log([[0.6, 0.3]]))
#: Members of the two groups by f, the tail, and the singles.
PARTS = ([0, 1], [2], [4, 5], [0], [3])


def sums_of(logits: torch.Tensor, maps: AlignmentMaps, top: ExpertTopK) -> RowSums:
    rows, groups = np.arange(len(logits)), step_groups(maps, top)
    caps = tail_caps(top, maps)
    return row_sums(logits, rows, groups, maps, token_ids=top.token_ids, caps=caps)


def defined(logits: torch.Tensor) -> tuple[list[float], list[float]]:
    p = torch.softmax(logits[0].double(), dim=-1)
    plogp = torch.where(p > 0, p * p.log(), 0.0)
    return (
        [float(p[part].sum()) for part in PARTS],
        [float(plogp[part].sum()) for part in PARTS],
    )


@pytest.mark.parametrize(
    "row",
    [
        [1.0, -2.0, 0.5, 3.0, 0.1, -4.0],
        [-torch.inf, 1.0, 2.0, -torch.inf, -torch.inf, 0.0],
        [300.0, 299.0, 301.0, 298.0, 290.0, 300.0],
        [-5e4, -5e4 + 1, -5e4 - 2, -5e4 + 2, -5e4, -5e4],
        # Tails smaller than the rounding errors of the sums around them.
        [30.0, 29.0, 28.0, 27.0, -1.0, -2.0],
        [30.0, 29.0, 28.0, 27.0, -30.0, -torch.inf],
    ],
)
def test_each_part_has_its_mass(row: list[float]) -> None:
    logits = torch.tensor([row])
    before = logits.clone()
    sums = sums_of(logits, MAPS, TOP)
    mass, plogp = defined(logits)
    assert sums.mass == pytest.approx(mass, rel=2e-5, abs=1e-30)
    assert sums.plogp == pytest.approx(plogp, rel=1e-4, abs=1e-6)
    assert torch.equal(logits, before)


def test_a_tail_without_tokens_has_no_mass() -> None:
    everything = maps_from_firsts(np.array([0, 1, 1], np.int32), np.array([0, 1], np.int32))
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    sums = sums_of(logits, everything, TOP)
    assert sums.mass[2] == 0.0


@given(st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_rows_do_not_depend_on_their_neighbours(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.normal(0, 5, (3, 6)).astype(np.float32))
    top = ExpertTopK(
        token_ids=np.repeat(TOP.token_ids, 3, 0), logprobs=np.log(np.full((3, 2), 0.4))
    )
    sums = sums_of(logits, MAPS, top)
    together, _ = sums.groups.without_singles(sums.mass)
    for row in range(3):
        alone = sums_of(logits[row : row + 1].contiguous(), MAPS, top.row(row))
        assert together[row].tolist() == alone.groups.without_singles(alone.mass)[0][0].tolist()


def test_the_compiler_is_not_there_before_it_is_used() -> None:
    # vLLM's worker scans all modules when it starts, and fails on llvmlite's.
    code = "import sys, vllm_logits_processor.engine; sys.exit('llvmlite' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
