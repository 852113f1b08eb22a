"""Keeps tensor-parallel ranks in step: one decides the changes to the logits, all write them.

Under tensor parallelism every rank samples the next token from its own logits. If each rank called
the expert, replies would arrive at different times, and the ranks would continue with different
texts.

The deciding rank sends the expert's top K and what each group gains; every rank has the part of the
maps that says which tokens these are, sent once. So a step sends some hundred bytes a row, however
many logits change.

A fault costs a step on all ranks or on none. On the deciding rank it becomes a decision to change
nothing. The other ranks keep the buffers that they need from step to step. Memory can be short on a
single rank only in a step in which these buffers grow, the maps arrive, or the logits had to be
copied. All ranks recognise such a step, and agree before they write. The remaining work, writing
into the logits from a buffer on the same device, needs no memory there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import distributed

from vllm_logits_processor.alignment.group_runs import GroupMaps, ReceivedMaps
from vllm_logits_processor.alignment.packed import Packed
from vllm_logits_processor.cells import PARTS, FusedCells, SentGains

#: Sent instead of the size of the gains if the deciding rank stops the server.
_FAILED = -1
#: Initial room, in numbers of 4 bytes; doubled as needed.
_ROOM = 1 << 15
#: The maps as they are sent.
_OF_MAPS = ("offsets", "members")


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
        self._data = torch.empty(0, dtype=torch.int32)
        self._on_device = self._data
        #: Those that every rank has; on the deciding rank, those that it has sent.
        self._maps: GroupMaps | None = None
        self._copied: torch.Event | None = None

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
        cells, count, of_maps = FusedCells.none(), _FAILED, 0
        data: torch.Tensor | None = None
        maps_data: torch.Tensor | None = None
        if self.decides:
            try:
                # Called even if this rank is not ready, because it also follows the batch.
                decided = decide()
                count = 0
                if ready:
                    cells, data, maps_data = self._packed(decided, device)
                count = 0 if data is None else data.numel()
                of_maps = 0 if maps_data is None else maps_data.numel()
            finally:
                self._broadcast(torch.tensor([count, of_maps], dtype=torch.int64))
        else:
            header = torch.empty(2, dtype=torch.int64)
            self._broadcast(header)
            count, of_maps = header.tolist()
            if count == _FAILED:
                raise RuntimeError("Floe failed on the first rank; its log has the reason.")
        if not count:
            return FusedCells.none()
        if of_maps:
            if not self._have_maps(of_maps, maps_data, cells.maps, device):
                return FusedCells.none()
            doubtful = True
        if (count > self._room or doubtful) and not self._all_ready(count, device, ready=ready):
            return FusedCells.none()
        if data is not None:
            self._broadcast(data)
            return cells
        return self._received(count)

    def _packed(
        self, cells: FusedCells, device: torch.device | None
    ) -> tuple[FusedCells, torch.Tensor | None, torch.Tensor | None]:
        """Return the cells as this rank writes them, and what the others need for it.

        That is the gains, and the maps if these are new; None if nothing changes. A fault in
        packing costs the step as well.
        """
        if cells.gains is None or cells.maps is None:
            return cells, None, None
        try:
            packed, maps = cells.gains.packed(), cells.maps
            if device is not None and device.type != "cpu":
                cells = FusedCells(SentGains.to(device, packed), maps)
            maps_data = None
            if maps is not self._maps:
                parts = (np.asarray(maps.offsets), np.asarray(maps.members))
                of_maps = Packed.of(dict(zip(_OF_MAPS, parts, strict=True)))
                maps_data = torch.from_numpy(of_maps.data)
            return cells, torch.from_numpy(packed.data), maps_data
        except (MemoryError, RuntimeError) as error:
            self.on_fault(error)
            return FusedCells.none(), None, None

    def _have_maps(
        self,
        size: int,
        data: torch.Tensor | None,
        maps: GroupMaps | None,
        device: torch.device | None,
    ) -> bool:
        """Share the maps; return whether every rank has them."""
        try:
            # The deciding rank has them; the others receive them into memory of their own.
            data = torch.empty(size, dtype=torch.int32) if data is None else data
        except (MemoryError, RuntimeError) as error:
            self.on_fault(error)
        if not self._agreed(data is not None) or data is None:
            return False
        self._broadcast(data)
        ready = True
        try:
            if maps is None:
                packed = Packed.read(_OF_MAPS, data.numpy())
                maps = ReceivedMaps(
                    offsets=packed.integers("offsets"),
                    members=packed.data[packed.places["members"]],
                )
                if device is not None and device.type != "cpu":
                    from vllm_logits_processor.alignment.device_pass import maps_on

                    maps_on(device, maps)
        except (MemoryError, RuntimeError) as error:
            self.on_fault(error)
            ready = False
        if not self._agreed(ready):
            return False
        self._maps = maps
        return True

    def _received(self, count: int) -> FusedCells:
        """Receive the deciding rank's gains."""
        if self._copied is not None:
            self._copied.synchronize()
        data = self._data[:count]
        self._broadcast(data)
        on_device = None
        if self._on_device is not self._data:
            on_device = self._on_device[:count]
            on_device.copy_(data, non_blocking=True)
            stream = torch.get_device_module(on_device.device).current_stream(on_device.device)
            self._copied = stream.record_event()
        return FusedCells(SentGains(Packed.read(PARTS, data.numpy()), on_device), self._maps)

    def _all_ready(self, count: int, device: torch.device | None, *, ready: bool) -> bool:
        """Make room for the gains; return whether every rank has it."""
        room = max(_ROOM, 1 << (count - 1).bit_length(), self._room)
        if ready and not self.decides:
            try:
                self._grow(room, device)
            except (MemoryError, RuntimeError) as error:
                self.on_fault(error)
                ready = False
        if not self._agreed(ready):
            return False
        # The number is the same on all ranks, so they grow their buffers in the same step.
        self._room = room
        return True

    def _agreed(self, ready: bool) -> bool:
        """Return whether every rank is ready."""
        all_of_them = torch.tensor([int(ready)])
        distributed.all_reduce(all_of_them, op=distributed.ReduceOp.MIN, group=self._group)
        if not int(all_of_them) and ready and self.decides:
            self.on_fault(OtherRankError())
        return bool(all_of_them)

    def _grow(self, room: int, device: torch.device | None) -> None:
        here = device is None or device.type == "cpu"
        if self._data.numel() < room:
            self._data = torch.empty(room, dtype=torch.int32, pin_memory=not here)
        if here:
            self._on_device = self._data
        elif self._on_device.device != device or self._on_device.numel() < room:
            self._on_device = torch.empty(room, dtype=torch.int32, device=device)

    def _broadcast(self, tensor: torch.Tensor) -> None:
        distributed.broadcast(tensor, src=self._first_rank, group=self._group)
