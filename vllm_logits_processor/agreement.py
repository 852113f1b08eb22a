"""Several ranks sample the same tokens: one decides what changes in the logits, all write it.

Under tensor parallelism every rank draws the next token from logits of its own. Ranks that asked an
expert each would hear it at different times, write different logits and go on with different texts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import distributed

from vllm_logits_processor.fusion import FusedCells

#: Sent in place of the number of cells where the deciding rank failed.
_FAILED = -1


class Agreement:
    """Shares the decisions of the first rank of a group with the others of it.

    Every rank of the group must call `settle` once for every step.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        A group that carries tensors of the CPU. Without one, this process samples alone.
    first_rank : int
        Global rank of the process that decides.
    decides : bool
        True in that process.
    """

    def __init__(
        self,
        group: distributed.ProcessGroup | None = None,
        *,
        first_rank: int = 0,
        decides: bool = True,
    ) -> None:
        self._group = group
        self._first_rank = first_rank
        self.decides = decides

    def settle(self, decide: Callable[[], FusedCells]) -> FusedCells:
        """Return what the deciding rank decides, on every rank.

        Parameters
        ----------
        decide : callable
            Called on the deciding rank alone. What it raises is raised there; the other ranks are
            told, so that none waits for a decision that never comes.

        Raises
        ------
        RuntimeError
            On the other ranks, if the deciding one failed.
        """
        if self._group is None:
            return decide()
        if not self.decides:
            return self._receive()
        count, packed = _FAILED, torch.empty(0, dtype=torch.uint8)
        try:
            cells = decide()
            # Cells may be laid out here for the first time: a failure in that is told, too.
            packed = _packed(cells)
            count = cells.index.numel()
        finally:
            self._broadcast(torch.tensor([count], dtype=torch.int64))
        if count:
            self._broadcast(packed)
        return cells

    def _receive(self) -> FusedCells:
        header = torch.empty(1, dtype=torch.int64)
        self._broadcast(header)
        count = int(header)
        if count == _FAILED:
            raise RuntimeError("Floe failed on the first rank; its log has the reason.")
        if not count:
            return FusedCells.none()
        data = torch.empty(count * 12, dtype=torch.uint8)
        self._broadcast(data)
        # Copies begin at addresses that both types take.
        return FusedCells(
            index=data[: count * 8].clone().view(torch.int64),
            values=data[count * 8 :].clone().view(torch.float32),
        )

    @property
    def alone(self) -> bool:
        """Whether no other rank has to write the same."""
        return self._group is None

    def _broadcast(self, tensor: torch.Tensor) -> None:
        distributed.broadcast(tensor, src=self._first_rank, group=self._group)


def _packed(cells: FusedCells) -> torch.Tensor:
    """Return index and values of cells as one tensor of bytes on the CPU."""
    return torch.cat([cells.index.cpu().view(torch.uint8), cells.values.cpu().view(torch.uint8)])
