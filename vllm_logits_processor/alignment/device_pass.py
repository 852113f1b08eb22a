"""The pass over the host's rows on an accelerator: what goes to it, and what comes back.

The maps live on the device. A step sends the expert's top K, as one buffer of pinned memory, and
receives K + 1 sums a row and the singles' logits, as another: the only thing that is waited for.
The kernels are those of :mod:`vllm_logits_processor.alignment.kernels`. Import this module where it
is used: Triton is not everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vllm_logits_processor.alignment import kernels
from vllm_logits_processor.alignment.group_runs import GroupMaps
from vllm_logits_processor.alignment.groups import StepGroups
from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.alignment.packed import Packed, aligned
from vllm_logits_processor.arrays import Float64Array, IntArray

#: Bytes of the marks of the rows that are read together; a row has one for each column.
_MARKS = 32 * 2**20
#: Tokens of a row that the tail's cap may hold down before the rows are read again.
_ROOM = 256
#: Smaller shares of a row's largest logit are 0, as in float32.
_LEAST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceMaps:
    """`offsets` and `members` on a device, int32."""

    offsets: torch.Tensor
    members: torch.Tensor


#: With the maps that they were made from: an id is another's once its object is gone.
_placed: dict[tuple[int, torch.device], tuple[GroupMaps, DeviceMaps]] = {}


def maps_on(device: torch.device, maps: GroupMaps) -> DeviceMaps:
    """Return the maps on a device, placed there at the first call."""
    key = id(maps), device
    if key not in _placed:
        # The maps may be read-only views of a file, of which torch makes no tensor.
        there = [
            torch.from_numpy(np.array(each, dtype=np.int32)).to(device)
            for each in (maps.offsets, maps.members)
        ]
        _placed[key] = maps, DeviceMaps(offsets=there[0], members=there[1])
    return _placed[key][1]


def sent(device: torch.device, buffer: npt.NDArray[np.int32]) -> torch.Tensor:
    """Return a copy of a buffer on a device; nothing waits for it."""
    if device.type == "cpu":
        return torch.from_numpy(buffer)
    # torch reuses the pinned memory once the device has read it.
    pinned = torch.empty(len(buffer), dtype=torch.int32, pin_memory=True)
    pinned.numpy()[:] = buffer
    return pinned.to(device, non_blocking=True)


def _fetched(buffer: torch.Tensor) -> npt.NDArray[np.float32]:
    """Return a copy of a buffer on the host: the one thing in a step that waits for the device."""
    there = buffer
    if buffer.device.type != "cpu":
        there = torch.empty(buffer.shape, dtype=buffer.dtype, pin_memory=True)
        there.copy_(buffer, non_blocking=True)
        stream = torch.get_device_module(buffer.device).current_stream(buffer.device)
        stream.record_event().synchronize()
    return np.asarray(there.numpy())


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceSums:
    """Sums of y = exp(x - largest logit of the row), and of y (x - largest), float64.

    Attributes
    ----------
    table : float64 array, shape (2, rows, K + 1)
        Over each group and, last, the tail without the tokens that are held down.
    singles : float64 array, shape (2, singles)
    held_row, held_token : int64 arrays, shape (held,)
        The tokens that the caps hold down, sorted.
    of_held : float64 array, shape (2, held)
    """

    table: Float64Array
    singles: Float64Array
    held_row: IntArray
    held_token: IntArray
    of_held: Float64Array


def read_rows(
    logits: torch.Tensor,
    rows: IntArray,
    groups: StepGroups,
    maps: GroupMaps,
    *,
    token_ids: IntArray,
    caps: Float64Array,
) -> DeviceSums:
    """Read rows on their device; the parameters are those of `align.row_sums`.

    Parameters
    ----------
    logits : torch.Tensor, shape (batch, vocabulary), contiguous
        float32 or another type of floats; not changed.
    """
    packed = Packed.of(
        {
            "rows": rows,
            "token_ids": token_ids,
            "single_begins": np.searchsorted(groups.single_row, np.arange(len(rows) + 1)),
            "single_tokens": groups.single_token,
            "single_known": groups.single_group == NOTHING,
            "caps": caps,
        }
    )
    parts = packed.of_device(sent(logits.device, packed.data), *packed.places)
    room = _ROOM if (caps < 1.0).any() else 0
    shape = len(rows), token_ids.shape[1], len(groups.single_row)
    while True:
        found = _read(logits, parts, maps_on(logits.device, maps), shape, room)
        # Only a cap that holds down very many tokens of a row makes this wait twice.
        most = int(found.held_counts.max(initial=0))
        if most <= room:
            return found.relative(groups)
        room = most


def write_gains(logits: torch.Tensor, data: torch.Tensor, packed: Packed, maps: GroupMaps) -> None:
    """Write gains into logits on their device; nothing waits for it, and it takes no memory there.

    Parameters
    ----------
    logits : torch.Tensor, shape (batch, vocabulary), contiguous
    data : int32 tensor
        `packed` on the device. See `vllm_logits_processor.cells.Gains`.
    """
    there = maps_on(logits.device, maps)
    stride = logits.stride(0)
    rows, token_ids, row_of, tokens = packed.of_device(
        data, "rows", "token_ids", "single_row", "single_token"
    )
    gains, single_gains, kept = (
        part.view(torch.float32)
        for part in packed.of_device(data, "gains", "single_gains", "single_logits")
    )
    count, groups, singles = (packed.size(name) for name in ("rows", "token_ids", "single_row"))
    blocks = -(-singles // kernels.GROUP_BLOCK)
    if singles:
        # A single may be in a run as well: its new value is computed from the old one.
        kernels.keep_singles[(blocks,)](
            logits, stride, rows, row_of, tokens, kept, singles, BLOCK=kernels.GROUP_BLOCK
        )
    if groups:
        kernels.add_gains[(count, groups // count)](
            logits,
            stride,
            rows,
            token_ids,
            gains,
            there.offsets,
            there.members,
            groups // count,
            BLOCK=kernels.GROUP_BLOCK,
        )
    if singles:
        kernels.set_singles[(blocks,)](
            logits,
            stride,
            rows,
            row_of,
            tokens,
            kept,
            single_gains,
            singles,
            BLOCK=kernels.GROUP_BLOCK,
        )
    if leaders := packed.size("leader_places"):
        kernels.lift_leaders[(leaders,)](
            logits,
            stride,
            rows,
            *packed.of_device(
                data, "leader_places", "leader_experts", "link_begins", "link_tokens"
            ),
            there.offsets,
            there.members,
            BLOCK=kernels.GROUP_BLOCK,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """What came back, as the kernels wrote it."""

    group_sums: npt.NDArray[np.float32]
    single_logits: npt.NDArray[np.float32]
    tails: npt.NDArray[np.float32]
    held_counts: npt.NDArray[np.int32]
    held_tokens: npt.NDArray[np.int32]
    held_logits: npt.NDArray[np.float32]

    def relative(self, groups: StepGroups) -> DeviceSums:
        """Return the sums, relative to the largest logit of each row."""
        count, width = self.group_sums.shape[:2]
        held = np.arange(self.held_tokens.shape[1]) < self.held_counts[:, None]
        held_row = np.nonzero(held)[0]
        held_logits = self.held_logits[held]
        most = np.maximum(self.tails[:, 0], self.group_sums[:, :, 0].max(axis=1, initial=-np.inf))
        np.maximum.at(most, groups.single_row, self.single_logits)
        base = most.astype(np.float64)
        table = np.empty((2, count, width + 1))
        table[:, :, :-1] = _moved(np.moveaxis(self.group_sums, 2, 0), base[:, None])
        table[:, :, -1] = _moved(self.tails.T, base)
        return DeviceSums(
            table=table,
            singles=_of_logits(self.single_logits, base[groups.single_row]),
            held_row=held_row,
            held_token=self.held_tokens[held].astype(np.int64),
            of_held=_of_logits(held_logits, base[held_row]),
        )


def _moved(sums: npt.NDArray[np.float32], base: Float64Array) -> Float64Array:
    """Return two sums relative to `base`; `sums` are the largest logit, and relative to it."""
    most, total, moment = sums.astype(np.float64)
    far = np.where(total > 0, most, base) - base
    scale = np.exp(far)
    scale[scale < _LEAST] = 0.0
    return np.stack([total * scale, (moment + total * far) * scale])


def _of_logits(logits: npt.NDArray[np.float32], base: Float64Array) -> Float64Array:
    """Return y and y (x - base) of single tokens."""
    one = np.where(np.isneginf(logits), 0.0, 1.0).astype(np.float32)
    return _moved(np.stack([logits, one, np.zeros_like(one)]), base)


def _read(
    logits: torch.Tensor,
    parts: Sequence[torch.Tensor],
    maps: DeviceMaps,
    shape: tuple[int, int, int],
    room: int,
) -> _Found:
    """Run the kernels, and wait for what they find."""
    rows, token_ids, single_begins, single_tokens, single_known, caps = parts
    count, width, singles = shape
    columns = logits.shape[1]
    chunks = -(-columns // kernels.ROW_BLOCK)
    together = min(count, max(1, _MARKS // columns))
    device, float32 = logits.device, torch.float32
    marks = torch.empty((together, columns), dtype=torch.int8, device=device)
    chunk_sums = torch.empty((together, 3, chunks), dtype=float32, device=device)
    sizes = [count * width * 3, singles, count * 3, count, count * room, count * room]
    places = [aligned(size) for size in sizes]
    out = torch.empty(sum(places), dtype=float32, device=device)
    group_sums, single_logits, tails, held_counts, held_tokens, held_logits = out.split(places)
    for first in range(0, count, together):
        here = min(together, count - first)
        marks.zero_()
        kernels.read_groups[(here, width + 1)](
            logits,
            logits.stride(0),
            rows,
            token_ids,
            single_begins,
            single_tokens,
            single_known,
            maps.offsets,
            maps.members,
            marks,
            group_sums,
            single_logits,
            first,
            width,
            columns,
            BLOCK=kernels.GROUP_BLOCK,
        )
        kernels.read_tail[(here, chunks)](
            logits,
            logits.stride(0),
            rows,
            marks,
            chunk_sums,
            first,
            columns,
            chunks,
            BLOCK=kernels.ROW_BLOCK,
            num_warps=8,
        )
        kernels.bound_tail[(here,)](
            logits,
            logits.stride(0),
            rows,
            marks,
            chunk_sums,
            caps.view(float32),
            tails,
            held_counts.view(torch.int32),
            held_tokens.view(torch.int32),
            held_logits,
            first,
            columns,
            chunks,
            room,
            CHUNKS=max(2, 1 << (chunks - 1).bit_length()),
            BLOCK=kernels.ROW_BLOCK,
            num_warps=8,
        )
    found = np.split(_fetched(out), np.cumsum(places)[:-1])
    taken = [part[:size] for part, size in zip(found, sizes, strict=True)]
    return _Found(
        group_sums=taken[0].reshape(count, width, 3),
        single_logits=taken[1],
        tails=taken[2].reshape(count, 3),
        held_counts=taken[3].view(np.int32),
        held_tokens=taken[4].view(np.int32).reshape(count, room),
        held_logits=taken[5].reshape(count, room),
    )
