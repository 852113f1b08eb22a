"""The kernels against the compiled pass on a CPU and sums in float64; interpreted without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vllm_logits_processor.alignment.align import Aligned, RowSums, row_sums, row_sums_on_device
from vllm_logits_processor.alignment.groups import ExpertTopK, Remainder, StepGroups, step_groups
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps, maps_from_firsts
from vllm_logits_processor.alignment.tail import tail_caps
from vllm_logits_processor.arrays import IntArray
from vllm_logits_processor.testing.interpreted import kernel_device

pytest.importorskip("triton")
DEVICE = kernel_device()

from vllm_logits_processor.alignment import align as align_module  # noqa: E402
from vllm_logits_processor.alignment import device_pass  # noqa: E402
from vllm_logits_processor.alignment.align import align  # noqa: E402
from vllm_logits_processor.cells import SentGains  # noqa: E402
from vllm_logits_processor.fusion import Weights, fused_cells  # noqa: E402
from vllm_logits_processor.warm_passes import make_kernels  # noqa: E402


def random_maps(hosts: int, experts: int, *, seed: int = 0) -> AlignmentMaps:
    random = np.random.default_rng(seed)
    # A few groups are large, most are small.
    owners = np.minimum(random.geometric(4 / experts, hosts) - 1, experts - 1)
    owners[random.random(hosts) < 0.1] = NOTHING
    firsts = random.integers(NOTHING, hosts, experts)
    return maps_from_firsts(owners.astype(np.int32), firsts.astype(np.int32))


def random_top(maps: AlignmentMaps, rows: int, k: int, *, seed: int = 0) -> ExpertTopK:
    random = np.random.default_rng(seed)
    masses = -np.sort(-random.dirichlet(np.full(k + 1, 0.5), rows), axis=1)[:, :k]
    ids = np.stack([random.permutation(len(maps.extra))[:k] for _ in range(rows)])
    logprobs = np.log(np.maximum(masses, 1e-12))
    if k > 1:
        ids[:, -1], logprobs[:, -1] = NOTHING, -np.inf  # a short row
    return ExpertTopK(token_ids=ids, logprobs=logprobs)


def random_logits(rows: int, columns: int, *, seed: int = 0, masked: float = 0.2) -> torch.Tensor:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 4, (rows, columns)).astype(np.float32)
    logits[random.random(logits.shape) < masked] = -np.inf
    logits[:, -1] = 0.0
    return torch.from_numpy(logits)


def both(
    logits: torch.Tensor, top: ExpertTopK, maps: AlignmentMaps, rows: list[int] | None = None
) -> tuple[RowSums, RowSums]:
    """Return the sums of the CPU's pass, and those of the kernels."""
    at = np.arange(len(logits)) if rows is None else np.array(rows)
    groups, caps = step_groups(maps, top), tail_caps(top, maps)
    arguments = at, groups, maps
    here = row_sums(logits.float(), *arguments, token_ids=top.token_ids, caps=caps)
    before = logits.to(DEVICE)
    read = before.clone()
    there = row_sums_on_device(read, *arguments, token_ids=top.token_ids, caps=caps)
    torch.testing.assert_close(read, before, rtol=0, atol=0, equal_nan=True)
    return here, there


def defined(sums: RowSums, logits: torch.Tensor, maps: AlignmentMaps) -> RowSums:
    """Return the sums of the same parts, in float64."""
    p = torch.softmax(logits.double(), dim=-1).numpy()
    plogp = np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0.0)
    groups = sums.groups
    count, width = groups.sizes.shape[0], groups.sizes.shape[1] - 1
    tables, singles = np.zeros((2, count, width + 1)), []
    for row in range(count):
        tail = np.ones(p.shape[1], dtype=bool)
        for group in range(width):
            run = slice(groups.begins[row, group], None)
            tokens = maps.members[run][: groups.sizes[row, group]]
            tables[:, row, group] = p[row, tokens].sum(), plogp[row, tokens].sum()
            tail[tokens] = False
        tail[groups.single_token[(groups.single_row == row) & (groups.single_group < 0)]] = False
        tables[:, row, width] = p[row, tail].sum(), plogp[row, tail].sum()
    singles = [each[groups.single_row, groups.single_token] for each in (p, plogp)]
    mass, of_logs = (
        groups.with_singles(table, each) for table, each in zip(tables, singles, strict=True)
    )
    return RowSums(groups=groups, held=sums.held, mass=mass, plogp=of_logs)


def assert_equal(found: RowSums, wanted: RowSums) -> None:
    assert found.groups.single_token.tolist() == wanted.groups.single_token.tolist()
    assert found.held.tolist() == wanted.held.tolist()
    np.testing.assert_allclose(found.mass, wanted.mass, rtol=2e-5, atol=1e-30)
    np.testing.assert_allclose(found.plogp, wanted.plogp, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "k", "columns"), [(1, 1000, 3000), (256, 1, 300), (5, 20, 9000), (2, 3, 4096)]
)
def test_the_kernels_read_what_the_cpu_reads(rows: int, k: int, columns: int) -> None:
    maps = random_maps(columns - 7, max(1200, k) if k > 100 else 60)
    logits = random_logits(rows, columns)
    here, there = both(logits, random_top(maps, rows, k), maps)
    assert_equal(there, here)
    assert_equal(there, defined(there, logits, maps))
    assert there.mass.sum() > 0


MAPS = random_maps(500, 40)
TOP = random_top(MAPS, 3, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shift", [0.0, 5e4, -5e4, 300.0])
def test_logits_may_be_far_from_zero(shift: float, dtype: torch.dtype) -> None:
    logits = (random_logits(3, 500) + shift).to(dtype)
    here, there = both(logits, TOP, MAPS)
    assert_equal(there, here)
    assert_equal(there, defined(there, logits, MAPS))


def rows_of_parts(groups: StepGroups) -> IntArray:
    rows, columns = groups.sizes.shape
    return np.concatenate([np.repeat(np.arange(rows), columns), groups.single_row])


def test_one_row_far_above_its_neighbours_changes_them_not() -> None:
    logits = random_logits(3, 500)
    alone = both(logits, TOP, MAPS)[1]
    logits[1] += 5e4
    logits[1, 7] = -5e4
    together = both(logits, TOP, MAPS)[1]
    for row in (0, 2):
        before, after = (
            found.mass[rows_of_parts(found.groups) == row] for found in (alone, together)
        )
        assert after.tolist() == before.tolist()


def test_masked_groups_and_tails_have_no_mass() -> None:
    logits = random_logits(3, 500)
    expert = int(TOP.token_ids[0, 0])
    logits[0, MAPS.members[MAPS.offsets[expert] : MAPS.offsets[expert + 1]]] = -torch.inf
    logits[1, 3:] = -torch.inf
    here, there = both(logits, TOP, MAPS)
    assert_equal(there, here)
    assert there.mass[0] == 0.0


def test_only_the_named_rows_are_read() -> None:
    logits = random_logits(5, 500)
    logits[[0, 2]] = torch.nan
    here, there = both(logits, TOP, MAPS, rows=[4, 1, 3])
    assert_equal(there, here)


def test_rows_in_parts_are_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks of all rows would take too much memory where there are very many."""
    logits = random_logits(3, 500)
    _, whole = both(logits, TOP, MAPS)
    monkeypatch.setattr(device_pass, "_MARKS", 1100)
    _, parted = both(logits, TOP, MAPS)
    assert parted.mass.tolist() == whole.mass.tolist()
    assert parted.plogp.tolist() == whole.plogp.tolist()


def test_more_tokens_may_be_held_down_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    same = maps_from_firsts(np.arange(5000, dtype=np.int32), np.arange(5000, dtype=np.int32))
    p = np.full((2, 5000), 0.002 / 4648)
    p[0, :2], p[0, 2:352] = (0.4, 0.1), 0.498 / 350
    # And a tail of one likely token, whose rest is far below the errors of the sums around it.
    p[1], p[1, :3] = 1e-12, (0.4, 0.1, 0.5)
    logits = torch.from_numpy(np.log(p).astype(np.float32))
    top = ExpertTopK(token_ids=np.array([[0, 1]] * 2), logprobs=np.log([[0.6, 0.001], [0.6, 0.01]]))
    here, there = both(logits, top, same)
    assert int(there.held.sum()) == 351
    assert_equal(there, here)
    monkeypatch.setattr(device_pass, "_ROOM", 512)
    assert both(logits, top, same)[1].mass.tolist() == there.mass.tolist()


def with_remainder(top: ExpertTopK) -> ExpertTopK:
    """Give the last row's short place to the remainder of a token that has begun."""
    ids, logprobs = top.token_ids.copy(), top.logprobs.copy()
    last = len(ids) - 1
    ids[last, -1], logprobs[last, -1] = NOTHING, np.log(0.01)
    rest = Remainder(row=last, place=ids.shape[1] - 1, tokens=np.arange(40, 60), known=5)
    return ExpertTopK(token_ids=ids, logprobs=logprobs, remainders=(rest,))


def test_what_only_a_remainder_holds_is_in_the_tail() -> None:
    logits = random_logits(3, 500)
    here, there = both(logits, with_remainder(TOP), MAPS)
    assert_equal(there, here)


def aligned(logits: torch.Tensor, top: ExpertTopK, monkeypatch: pytest.MonkeyPatch) -> Aligned:
    """Align as on a device, also where the kernels are interpreted."""
    with monkeypatch.context() as here:
        here.setattr(align_module, "row_sums", row_sums_on_device)
        return align(logits.to(DEVICE), np.arange(len(logits)), top, MAPS)


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_write_what_the_cpu_writes(
    greedy: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, top, rows = random_logits(4, 500).to(dtype), with_remainder(TOP), np.array([3, 0, 1])
    steps = aligned(logits[rows], top, monkeypatch)
    reference = align(logits[rows].float(), np.arange(3), top, MAPS)
    np.testing.assert_allclose(steps.factors, reference.factors, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(steps.disagreement, reference.disagreement, atol=1e-5)
    weights = Weights(host=np.array([0.2, 0.5, 0.9]), expert=np.array([0.8, 0.5, 0.1]))
    here = logits.clone().float()
    cells = fused_cells(here, rows, steps, weights, greedy=np.full(3, greedy))
    assert cells.gains is not None
    there = logits.clone().to(DEVICE)
    SentGains.to(DEVICE, cells.gains.packed()).write(there, MAPS)
    cells.write(here)
    rounding = {torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(there.cpu().float(), here, rtol=rounding, atol=rounding)
    if dtype == torch.float32 and not greedy:
        assert torch.equal(there.cpu(), here)
    assert torch.equal(there[2].cpu(), logits[2])
    assert not torch.equal(there[3].cpu(), logits[3])


def test_a_server_compiles_them_before_its_first_step() -> None:
    """The same calls as a step's; which are compiled shows on a GPU alone."""
    logits = random_logits(3, 500)
    make_kernels(DEVICE, columns=500)
    here, there = both(logits, TOP, MAPS)
    assert_equal(there, here)


def test_maps_are_placed_once() -> None:
    first = device_pass.maps_on(DEVICE, MAPS)
    assert device_pass.maps_on(DEVICE, MAPS) is first
    assert first.members.cpu().numpy().tolist() == MAPS.members.tolist()


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vllm_logits_processor.alignment import kernels

FLOATS = {"logits", "group_sums", "single_logits", "chunk_sums", "caps", "tails", "held_logits",
          "kept", "gains"}
NUMBERS = {"stride", "first", "width", "columns", "chunks", "room", "count"}
CONSTANTS = {"BLOCK": 512, "CHUNKS": 64}
for name, kernel in vars(kernels).items():
    if not isinstance(kernel, triton.JITFunction) or name.startswith("_"):
        continue
    types, constants = {}, {}
    for place, each in enumerate(kernel.arg_names):
        types[each] = (
            "*fp32" if each in FLOATS else "i32" if each in NUMBERS
            else "*i8" if each == "marks" else "*i32"
        )
        if each in CONSTANTS:
            types[each], constants[(place,)] = "constexpr", CONSTANTS[each]
    made = triton.compile(ASTSource(kernel, types, constants), target=GPUTarget("cuda", 90, 32))
    print(name, len(made.asm["cubin"]))
"""


def test_the_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    """The interpreter takes more than the compiler does."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == [
        "read_groups",
        "read_tail",
        "bound_tail",
        "keep_singles",
        "add_gains",
        "set_singles",
        "lift_leaders",
    ]
