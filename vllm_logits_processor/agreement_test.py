"""Two processes that agree over a real group, as vLLM's ranks do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vllm_logits_processor.agreement import Agreement
from vllm_logits_processor.fusion import FusedCells

RANK = """
import sys, time
import torch
from torch import distributed
from vllm_logits_processor.agreement import Agreement
from vllm_logits_processor.fusion import FusedCells

rank, store = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
agreement = Agreement(distributed.group.WORLD, first_rank=0, decides=rank == 0)
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
        agreement.settle(lambda: decide(step)).write(logits)
    except (ValueError, RuntimeError) as error:
        print(type(error).__name__, error)
    else:
        print(logits.view(-1).tolist())
print("asked", asked, file=sys.stderr)
"""


def test_both_ranks_write_what_the_first_decides(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    # A rank that waits for ever would be ended here.
    (first, first_notes), (second, second_notes) = [rank.communicate(timeout=60) for rank in ranks]
    assert "asked [0, 1, 2, 3]" in first_notes
    assert "asked []" in second_notes
    *steps, failure = first.splitlines()
    *other_steps, other_failure = second.splitlines()
    assert steps == other_steps
    assert len(steps) == 3
    assert steps[0] != steps[1]
    assert failure == "ValueError the expert's word cannot be read"
    assert other_failure == "RuntimeError Floe failed on the first rank; its log has the reason."


def test_a_process_that_samples_alone_asks_nobody() -> None:
    cells = FusedCells(index=torch.tensor([1]), values=torch.tensor([2.0]))
    assert Agreement().settle(lambda: cells) is cells
    with pytest.raises(ZeroDivisionError):
        Agreement().settle(lambda: FusedCells(index=torch.tensor([1 // 0]), values=cells.values))
