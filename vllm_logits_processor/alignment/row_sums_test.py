from __future__ import annotations

import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_logits_processor.alignment.align_test import random_pairs
from vllm_logits_processor.alignment.groups import ExpertTopK, StepGroups, step_groups
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps, maps_from_firsts
from vllm_logits_processor.alignment.row_sums import RowSums, row_sums, row_sums_on_device

FloatArray = npt.NDArray[np.float64]

#: Two groups by f; g adds token 3 to the first and token 0 to the second.
MAPS = maps_from_firsts(
    np.array([0, 0, 1, NOTHING, NOTHING, NOTHING], np.int32), np.array([3, 0], np.int32)
)
TOP = ExpertTopK(token_ids=np.array([[0, 1]]), logprobs=np.log([[0.6, 0.3]]))
#: Members of the two groups by f, the tail, and the singles.
PARTS = ([0, 1], [2], [4, 5], [0], [3])


def read(logits: torch.Tensor) -> tuple[RowSums, StepGroups]:
    groups = step_groups(MAPS, TOP)
    return row_sums(logits, np.arange(1), groups, MAPS), groups


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
        # Tails so small that what the sums around them round off is larger.
        [30.0, 29.0, 28.0, 27.0, -1.0, -2.0],
        [30.0, 29.0, 28.0, 27.0, -30.0, -torch.inf],
    ],
)
def test_each_part_has_its_mass(row: list[float]) -> None:
    logits = torch.tensor([row])
    before = logits.clone()
    sums, _ = read(logits)
    mass, plogp = defined(logits)
    assert sums.mass == pytest.approx(mass, rel=2e-5, abs=1e-30)
    assert sums.plogp == pytest.approx(plogp, rel=1e-4, abs=1e-6)
    assert torch.equal(logits, before)


def test_a_tail_without_tokens_has_no_mass() -> None:
    everything = maps_from_firsts(np.array([0, 1, 1], np.int32), np.array([0, 1], np.int32))
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    sums = row_sums(logits, np.arange(1), step_groups(everything, TOP), everything)
    assert sums.mass[2] == 0.0


@settings(deadline=None, max_examples=100)
@given(random_pairs())
def test_the_device_reads_what_the_cpu_reads(
    case: tuple[AlignmentMaps, torch.Tensor, ExpertTopK],
) -> None:
    """The device's way with tensors on the CPU: there is no GPU to test it on."""
    maps, logits, top = case
    groups, rows = step_groups(maps, top), np.arange(len(logits))
    here = row_sums(logits, rows, groups, maps)
    there = row_sums_on_device(logits, rows, groups, maps)
    assert there.mass == pytest.approx(here.mass, rel=1e-4, abs=1e-7)
    assert there.plogp == pytest.approx(here.plogp, rel=1e-3, abs=1e-5)
    assert there.index is not None
    tokens = there.index.numpy() % logits.shape[1]
    assert tokens.tolist() == groups.tokens(maps).tolist()


@given(st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_rows_do_not_depend_on_their_neighbours(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.normal(0, 5, (3, 6)).astype(np.float32))
    top = ExpertTopK(
        token_ids=np.repeat(TOP.token_ids, 3, 0), logprobs=np.log(np.full((3, 2), 0.4))
    )
    groups = step_groups(MAPS, top)
    together, _ = groups.without_singles(row_sums(logits, np.arange(3), groups, MAPS).mass)
    for row in range(3):
        alone, single = read(logits[row : row + 1].contiguous())
        assert together[row].tolist() == single.without_singles(alone.mass)[0][0].tolist()


def test_the_compiler_is_not_there_before_it_is_used() -> None:
    # vLLM's worker looks through all modules when it starts, and does not get over llvmlite's.
    code = "import sys, vllm_logits_processor.engine; sys.exit('llvmlite' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
