"""Two processes that synchronise over a real group, as vLLM's ranks do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vllm_logits_processor.cells import FusedCells
from vllm_logits_processor.rank_sync import RankSync

#: Maps of 40 host tokens, two for each of the expert's, and the cells of a step.
SHARED = """
import sys, time
import numpy as np
import torch
from torch import distributed
from vllm_logits_processor import rank_sync as module
from vllm_logits_processor.alignment.maps import maps_from_firsts
from vllm_logits_processor.rank_sync import RankSync
from vllm_logits_processor.cells import FusedCells, Gains
from vllm_logits_processor.alignment.group_runs import runs_of
from vllm_logits_processor.leading_groups import LeadingGroups

rank, store = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
MAPS = maps_from_firsts(np.arange(40, dtype=np.int32) // 2, np.full(20, -1, np.int32))

def cells_of(seed, *, rows=1, width=2, singles=1, maps=MAPS):
    if not rows:
        return FusedCells.none()
    random = np.random.default_rng(seed)
    ids = np.stack([random.permutation(20)[:width] for _ in range(rows)])
    begins, sizes = (np.pad(each, ((0, 0), (0, 1))) for each in runs_of(ids, maps))
    gains = random.normal(size=rows * (width + 1) + rows * singles).astype(np.float32)
    leaders = LeadingGroups(
        places=np.array([0]), experts=ids[0, :1], link_begins=np.array([0, 1]),
        link_tokens=np.array([39]),
    )
    return FusedCells(Gains(
        rows=np.arange(rows), token_ids=ids, begins=begins, sizes=sizes, gains=gains,
        single_row=np.repeat(np.arange(rows), singles),
        single_token=np.concatenate(
            [np.sort(random.permutation(40)[:singles]) for _ in range(rows)]
        ),
        leaders=leaders,
    ), maps)
"""

RANK = (
    SHARED
    + """
sync = RankSync(distributed.group.WORLD, first_rank=0, decides=rank == 0)
asked = []

def decide(step):
    asked.append(step)
    time.sleep(0.05)
    if step == 3:
        raise ValueError("the expert's word cannot be read")
    return cells_of(step, rows=0 if step == 1 else 2)

for step in range(4):
    if rank == step % 2:
        time.sleep(0.1)
    logits = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    try:
        sync.broadcast(lambda: decide(step)).write(logits)
    except (ValueError, RuntimeError) as error:
        print(type(error).__name__, error)
    else:
        print(torch.equal(logits, before), logits.view(-1).tolist())
print("asked", asked, file=sys.stderr)
"""
)


def test_both_ranks_write_what_the_first_decides(tmp_path: Path) -> None:
    (first, first_notes), (second, second_notes) = run_two(RANK, tmp_path)
    assert "asked [0, 1, 2, 3]" in first_notes
    assert "asked []" in second_notes
    *steps, failure = first.splitlines()
    *other_steps, other_failure = second.splitlines()
    assert steps == other_steps
    assert [step.partition(" ")[0] for step in steps] == ["False", "True", "False"]
    assert failure == "ValueError the expert's word cannot be read"
    assert other_failure == "RuntimeError Floe failed on the first rank; its log has the reason."


#: A step of 64 rows and 20 groups, for the pair of the other tests' vocabularies.
SIZED = (
    SHARED
    + """
sync = RankSync(distributed.group.WORLD, first_rank=0, decides=rank == 0)
sent, really = [], module.distributed.broadcast
def counting(tensor, **options):
    sent.append(tensor.numel() * tensor.element_size())
    really(tensor, **options)
module.distributed.broadcast = counting
for step in range(3):
    logits = torch.zeros(64, 40)
    sync.broadcast(lambda: cells_of(step, rows=64, width=20, singles=20)).write(logits)
    print(sent, float(logits.abs().sum()) > 0)
    sent.clear()
"""
)


def test_a_step_sends_the_top_k_and_the_maps_once(tmp_path: Path) -> None:
    (first, _), (second, _) = run_two(SIZED, tmp_path)
    assert first == second
    begins, *later = [line.partition("]")[0].strip("[").split(", ") for line in first.splitlines()]
    header, of_maps, gains = map(int, begins)
    assert header == 16
    assert of_maps >= 4 * (21 + 40)
    assert [list(map(int, step)) for step in later] == [[header, gains]] * 2
    assert gains < 100_000
    assert first.count("True") == 3


SHORT = (
    SHARED
    + """
faults = []
sync = RankSync(
    distributed.group.WORLD, first_rank=0, decides=rank == 0,
    on_fault=lambda error: faults.append(type(error).__name__),
)
module._ROOM = 64
empty, short = torch.empty, [False]

def without_memory(*arguments, **options):
    if short[0]:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return empty(*arguments, **options)

class Unreadable(Gains):
    def packed(self):
        raise torch.OutOfMemoryError("CUDA out of memory.")

def unreadable():
    gains = cells_of(0).gains
    return FusedCells(Unreadable(**vars(gains)), MAPS)

# Rows of a step, the rank that has no memory for more, and the one whose logits are not ready.
STEPS = [(1, 1, None), (1, None, None), (8, 1, None), (8, None, None), (8, 1, None), (5, None, 1),
         (5, None, 0), (40, 1, None), (9, None, None), (40, None, None), (-1, None, None),
         (2, None, None)]
for step, (rows, poor, unready) in enumerate(STEPS):
    logits = torch.zeros(40, 40)
    decided = unreadable() if rows < 0 else cells_of(step, rows=rows)
    short[0] = poor == rank
    # The header is a tensor of its own; only what grows with the gains is to fail.
    module.torch.empty = lambda *a, **o: (empty if a[0] in (0, 2) else without_memory)(*a, **o)
    sync.broadcast(
        lambda: decided, ready=unready != rank, doubtful=unready is not None
    ).write(logits)
    module.torch.empty = empty
    print(int(logits.any(dim=1).sum()), float(logits.sum()))
print(faults, file=sys.stderr)
"""
)


def run_two(code: str, folder: Path) -> list[tuple[str, str]]:
    """Run a program as two ranks, with a time limit."""
    # Threads of gloo's that still run at a usual end have been seen to terminate the process.
    code += (
        "\ndistributed.barrier()\nsys.stdout.flush()\nsys.stderr.flush()\nimport os\nos._exit(0)\n"
    )
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(folder / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    return [rank.communicate(timeout=60) for rank in ranks]


def test_a_step_for_which_one_rank_lacks_memory_is_the_hosts_on_both(tmp_path: Path) -> None:
    (first, first_faults), (second, second_faults) = run_two(SHORT, tmp_path)
    assert first == second
    changed = [int(line.split()[0]) for line in first.splitlines()]
    # The second rank lacks memory only where the maps arrive or its buffers must grow.
    assert changed == [0, 1, 0, 8, 8, 0, 0, 0, 9, 40, 0, 2]
    other = "OtherRankError"
    assert first_faults.split("\n")[-2] == str([*[other] * 4, "OutOfMemoryError"])
    assert second_faults.split("\n")[-2] == str(["OutOfMemoryError"] * 3)


def test_a_process_that_samples_alone_asks_nobody() -> None:
    cells = FusedCells.none()
    assert RankSync().broadcast(lambda: cells) is cells

    def fails() -> FusedCells:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        RankSync().broadcast(fails)
