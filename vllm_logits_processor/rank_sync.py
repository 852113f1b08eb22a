"""Keeps tensor-parallel ranks in step: one decides the changes to the logits, all write them.

Under tensor parallelism every rank samples the next token from its own logits. If each rank called
the expert, replies would arrive at different times, and the ranks would continue with different
texts.

A fault costs a step on all ranks or on none. On the deciding rank it becomes a decision to change
nothing. The other ranks keep the buffers that they need from step to step. Memory can be short on a
single rank only in a step in which these buffers grow, or in which the logits had to be copied. All
ranks recognise such a step by the number of cells, and agree before they write. The remaining work,
writing into the logits from a buffer on the same device, needs no memory.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import distributed

from vllm_logits_processor.fusion import FusedCells

#: Sent instead of the number of cells if the deciding rank stops the server.
_FAILED = -1
#: Bytes of a cell: its place, int64, and its value, float32.
_PLACE, _CELL = 8, 12
#: Initial room, in cells; doubled as needed.
_ROOM = 1 << 16


class OtherRankError(RuntimeError):
    """Another rank was not ready to write: all ranks leave the step to the host."""


class RankSync:
    """Shares the decisions of a group's first rank with the other ranks.

    Every rank of the group must call `broadcast` once for every step.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        A group that carries CPU tensors. Without one, this process samples alone.
    first_rank : int
        Global rank of the process that decides.
    decides : bool
        Whether this process is that one.
    on_fault : callable, optional
        Receives a fault that costs this step: this rank's own or, on the deciding rank, another
        rank's.
    """

    def __init__(
        self,
        group: distributed.ProcessGroup | None = None,
        *,
        first_rank: int = 0,
        decides: bool = True,
        on_fault: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._group = group
        self._first_rank = first_rank
        self.decides = decides
        self.on_fault = on_fault
        self._room = 0
        self._data = torch.empty(0, dtype=torch.uint8)
        self._on_device = self._data

    @property
    def alone(self) -> bool:
        """Whether no other rank must write the same."""
        return self._group is None

    def broadcast(
        self,
        decide: Callable[[], FusedCells],
        *,
        device: torch.device | None = None,
        ready: bool = True,
        doubtful: bool = False,
    ) -> FusedCells:
        """Return the deciding rank's cells on every rank; no cells if one of them cannot write.

        Parameters
        ----------
        decide : callable
            Called on the deciding rank only. An exception stops the server there; the other ranks
            are notified, so that none waits for a decision that never comes.
        device : torch.device, optional
            Where the logits are; the CPU if not given.
        ready : bool
            Whether this rank could prepare its logits.
        doubtful : bool
            Whether `ready` may be False on some rank; the same on all ranks.

        Raises
        ------
        RuntimeError
            On the other ranks, if the deciding one stops the server.
        """
        if self._group is None:
            return decide()
        cells, count, packed = FusedCells.none(), _FAILED, None
        if self.decides:
            try:
                # Called even if this rank is not ready, because it also follows the batch.
                decided = decide()
                cells = decided if ready else cells
                count = 0
                count, packed = self._packed(cells)
            finally:
                self._broadcast(torch.tensor([count], dtype=torch.int64))
        else:
            header = torch.empty(1, dtype=torch.int64)
            self._broadcast(header)
            count = int(header)
            if count == _FAILED:
                raise RuntimeError("Floe failed on the first rank; its log has the reason.")
        if not count:
            return FusedCells.none()
        if (count > self._room or doubtful) and not self._all_ready(count, device, ready=ready):
            return FusedCells.none()
        if packed is not None:
            self._broadcast(packed)
            return cells
        data = self._data[: count * _CELL]
        self._broadcast(data)
        if self._on_device is not self._data:
            data = self._on_device[: count * _CELL].copy_(data)
        return FusedCells(
            index=data[: count * _PLACE].view(torch.int64),
            values=data[count * _PLACE :].view(torch.float32),
        )

    def _packed(self, cells: FusedCells) -> tuple[int, torch.Tensor | None]:
        """Return the number of cells, and places and values as one tensor of bytes on the CPU.

        Cells may be computed here for the first time: a fault in that costs the step as well.
        """
        try:
            count = cells.index.numel()
            if not count:
                return 0, None
            both = [cells.index.cpu().view(torch.uint8), cells.values.cpu().view(torch.uint8)]
            return count, torch.cat(both)
        except (MemoryError, RuntimeError) as error:
            self.on_fault(error)
            return 0, None

    def _all_ready(self, count: int, device: torch.device | None, *, ready: bool) -> bool:
        """Make room for the cells; return whether every rank has it."""
        room = max(_ROOM, 1 << (count - 1).bit_length(), self._room)
        if ready and not self.decides:
            try:
                self._grow(room, device)
            except (MemoryError, RuntimeError) as error:
                self.on_fault(error)
                ready = False
        all_of_them = torch.tensor([int(ready)])
        distributed.all_reduce(all_of_them, op=distributed.ReduceOp.MIN, group=self._group)
        if not int(all_of_them):
            if ready and self.decides:
                self.on_fault(OtherRankError())
            return False
        # The number is the same on all ranks, so they grow their buffers in the same step.
        self._room = room
        return True

    def _grow(self, room: int, device: torch.device | None) -> None:
        if self._data.numel() < room * _CELL:
            self._data = torch.empty(room * _CELL, dtype=torch.uint8)
        if device is None or device.type == "cpu":
            self._on_device = self._data
        elif self._on_device.device != device or self._on_device.numel() < room * _CELL:
            self._on_device = torch.empty(room * _CELL, dtype=torch.uint8, device=device)

    def _broadcast(self, tensor: torch.Tensor) -> None:
        distributed.broadcast(tensor, src=self._first_rank, group=self._group)
