"""Two processes that synchronise over a real group, as vLLM's ranks do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vllm_logits_processor.fusion import FusedCells
from vllm_logits_processor.rank_sync import RankSync

RANK = """
import sys, time
import torch
from torch import distributed
from vllm_logits_processor.rank_sync import RankSync
from vllm_logits_processor.fusion import FusedCells

rank, store = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
sync = RankSync(distributed.group.WORLD, first_rank=0, decides=rank == 0)
asked = []

def decide(step):
    asked.append(step)
    time.sleep(0.05)
    if step == 3:
        raise ValueError("the expert's word cannot be read")
    cells = 0 if step == 1 else 5
    index = torch.randperm(40, generator=torch.Generator().manual_seed(step))[:cells]
    return FusedCells(index=index, values=index.float() / 3)

for step in range(4):
    if rank == step % 2:
        time.sleep(0.1)
    logits = torch.zeros(2, 20)
    try:
        sync.broadcast(lambda: decide(step)).write(logits)
    except (ValueError, RuntimeError) as error:
        print(type(error).__name__, error)
    else:
        print(logits.view(-1).tolist())
print("asked", asked, file=sys.stderr)
"""


def test_both_ranks_write_what_the_first_decides(tmp_path: Path) -> None:
    (first, first_notes), (second, second_notes) = run_two(RANK, tmp_path)
    assert "asked [0, 1, 2, 3]" in first_notes
    assert "asked []" in second_notes
    *steps, failure = first.splitlines()
    *other_steps, other_failure = second.splitlines()
    assert steps == other_steps
    assert len(steps) == 3
    assert steps[0] != steps[1]
    assert failure == "ValueError the expert's word cannot be read"
    assert other_failure == "RuntimeError Floe failed on the first rank; its log has the reason."


SHORT = """
import sys
import torch
from torch import distributed
from vllm_logits_processor import rank_sync as module
from vllm_logits_processor.rank_sync import RankSync
from vllm_logits_processor.fusion import FusedCells

rank, store = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
faults = []
sync = RankSync(
    distributed.group.WORLD, first_rank=0, decides=rank == 0,
    on_fault=lambda error: faults.append(type(error).__name__),
)
module._ROOM = 4
empty, short = torch.empty, [False]

def without_memory(*arguments, **options):
    if short[0]:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return empty(*arguments, **options)

class Unreadable(FusedCells):
    @property
    def index(self):
        raise torch.OutOfMemoryError("CUDA out of memory.")

# Cells of a step, the rank that has no memory to grow, and the one whose logits are not ready.
STEPS = [(3, None, None), (9, 1, None), (9, None, None), (9, 1, None), (5, None, 1), (5, None, 0),
         (40, 1, None), (12, None, None), (40, None, None), (-1, None, None), (2, None, None)]
for step, (cells, poor, unready) in enumerate(STEPS):
    logits = torch.zeros(64)
    index = torch.arange(max(cells, 1))
    decided = FusedCells(index=index, values=index.float() + step)
    if cells < 0:
        decided = Unreadable(index=index, values=index.float())
    header = torch.empty
    short[0] = poor == rank
    # The header is a tensor of its own; only what grows with the cells is to fail.
    module.torch.empty = lambda *a, **o: (empty if a[0] in (0, 1) else without_memory)(*a, **o)
    sync.broadcast(
        lambda: decided, ready=unready != rank, doubtful=unready is not None
    ).write(logits)
    module.torch.empty = empty
    print(int(logits.sum()))
print(faults, file=sys.stderr)
"""


def run_two(code: str, folder: Path) -> list[tuple[str, str]]:
    """Run a program as two ranks, with a time limit."""
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
    sums = [int(line) for line in first.split()]

    def fused(cells: int, step: int) -> int:
        return sum(range(cells)) + cells * step

    # The second rank lacks memory only in steps in which its buffers must grow.
    assert sums == [
        fused(3, 0),
        0,
        fused(9, 2),
        fused(9, 3),
        0,
        0,
        0,
        fused(12, 7),
        fused(40, 8),
        0,
        fused(2, 10),
    ]
    other = "OtherRankError"
    assert first_faults.split("\n")[-2] == str([other, other, other, "OutOfMemoryError"])
    assert second_faults.split("\n")[-2] == str(["OutOfMemoryError", "OutOfMemoryError"])


def test_a_process_that_samples_alone_asks_nobody() -> None:
    cells = FusedCells(index=torch.tensor([1]), values=torch.tensor([2.0]))
    assert RankSync().broadcast(lambda: cells) is cells
    with pytest.raises(ZeroDivisionError):
        RankSync().broadcast(lambda: FusedCells(index=torch.tensor([1 // 0]), values=cells.values))
