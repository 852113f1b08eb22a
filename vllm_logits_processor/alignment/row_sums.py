"""What one pass over the host's rows tells of the groups, the singles and the tail.

A CPU reads a few rows at a time, so that they are still in its cache when their members are picked
out of them, and with as few calls as can be: the cache forgets the interpreter too. A GPU reads all
rows at once, and gives back all figures in one transfer.

``exp(x)`` is computed as ``2 ** (x log2 e)``: torch's exp2 takes half the time of its exp on CPUs
without AVX-512, and one multiplication more leaves it well ahead. Everything is float32, relative
to the row's maximum; a token further than 100 nats below it has no mass.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vllm_logits_processor.alignment.groups import StepGroups

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_LN_2 = math.log(2.0)
_LOG2_E = 1.0 / _LN_2

#: exp2 of this is zero in float32, and 0 times it is no NaN: it stands for -inf.
_FLOOR = -200.0


#: Rows that a CPU reads at a time.
_HEIGHT = 4


@dataclass(frozen=True, kw_only=True)
class RowSums:
    """Sums over the parts of some rows: groups (singles among them), tails, and singles.

    Attributes
    ----------
    mass : float64 array, shape (parts,)
        Sum of p.
    plogp : float64 array, shape (parts,)
        Sum of p ln p, nats.
    index : int64 tensor, shape (members,)
    cells : float32 tensor, shape (members,)
        See :class:`vllm_logits_processor.alignment.reweigh.Aligned`.
    """

    mass: FloatArray
    plogp: FloatArray
    index: torch.Tensor
    cells: torch.Tensor


class _Scratch(threading.local):
    """Floats on the CPU that stay allocated: fresh memory costs more than what is done in it."""

    def __init__(self) -> None:
        self._held: dict[str, torch.Tensor] = {}

    def floats(self, name: str, count: int) -> torch.Tensor:
        """Return a float32 tensor of shape (count,); what stands in it is old."""
        held = self._held.get(name)
        if held is None or len(held) < count:
            held = self._held[name] = torch.empty(count)
        return held[:count]


_scratch = _Scratch()


def row_sums(logits: torch.Tensor, rows: IntArray, groups: StepGroups) -> RowSums:
    """Read the rows once; see :func:`vllm_logits_processor.alignment.reweigh.align`."""
    device, count, columns = logits.device, len(rows), logits.shape[1]
    row_sizes = groups.sizes.sum(axis=1)
    index = torch.from_numpy(groups.tokens + np.repeat(rows * columns, row_sizes)).to(device)
    height = min(_HEIGHT, count) if device.type == "cpu" else count
    within = torch.from_numpy(
        groups.tokens + np.repeat(np.arange(count) % height * columns, row_sizes)
    ).to(device)
    if device.type == "cpu":
        shift, tail, cells = _block_by_block(logits, rows, within, row_sizes)
        shifts = torch.from_numpy(np.repeat(shift.numpy(), row_sizes))
    else:
        shift, tail, cells = _all_at_once(logits, rows, within)
        sizes = torch.from_numpy(row_sizes).to(device)
        shifts = shift.repeat_interleave(sizes, output_size=len(cells))
    # To compute the members' exp anew takes less than to pick it out of the row's.
    shifted = shifts.add_(cells, alpha=_LOG2_E)
    mass = torch.exp2(shifted)
    moment = shifted.clamp_(min=_FLOOR).mul_(mass)
    singles = torch.from_numpy(groups.single_at).to(device)
    figures = torch.cat(
        [
            tail,
            torch.stack([_sums(part, groups.sizes.reshape(-1)) for part in (mass, moment)]),
            torch.stack([part.index_select(0, singles) for part in (mass, moment)]),
        ],
        dim=1,
    )
    # All that is known of the rows, in one transfer.
    found = figures.cpu().numpy().astype(np.float64)
    table = found[:, count : count + groups.sizes.size].reshape(2, *groups.sizes.shape)
    partition = found[0, :count] + table[0].sum(axis=1)
    # Singles that no group holds by f are counted; from here on the last column is the tail.
    table[:, :, -1] = found[:, :count]
    part_rows = groups.part_rows
    masses, moments = found[:, count:] / partition[part_rows]
    log_partition = np.log(partition)
    return RowSums(
        mass=masses,
        plogp=moments * _LN_2 - masses * log_partition[part_rows],
        index=index,
        cells=cells,
    )


def _block_by_block(
    logits: torch.Tensor, rows: IntArray, within: torch.Tensor, row_sizes: IntArray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Read on a CPU.

    Parameters
    ----------
    within : int64 tensor, shape (members,)
        Places of the members in their flattened blocks of `_HEIGHT` rows.

    Returns
    -------
    shift : torch.Tensor, shape (rows,), float32
        Minus the row's maximum, times log2 e.
    tail : torch.Tensor, shape (2, rows), float32
        Sums of ``y = exp(x - max)`` and of y log2 y over what is no member.
    cells : torch.Tensor, shape (members,), float32
        x of the members.
    """
    count, columns = len(rows), logits.shape[1]
    ends = np.cumsum(row_sizes)
    cells = torch.empty(len(within))
    shift = torch.empty(count, 1)
    held = [_scratch.floats(name, min(_HEIGHT, count) * columns) for name in ("shifted", "mass")]
    sums, moments = [], []
    for first in range(0, count, _HEIGHT):
        last = min(first + _HEIGHT, count)
        x = _block(logits, rows[first:last])
        shifted, mass = (one[: x.numel()].view_as(x) for one in held)
        of_block = slice(ends[first] - row_sizes[first], ends[last - 1])
        torch.mul(x.amax(dim=-1, keepdim=True), -_LOG2_E, out=shift[first:last])
        torch.add(shift[first:last], x, alpha=_LOG2_E, out=shifted)
        torch.exp2(shifted, out=mass)
        here = within[of_block]
        torch.index_select(x.view(-1), 0, here, out=cells[of_block])
        # What is known is taken out of the rows: a difference of sums would drown a small tail.
        mass.view(-1).scatter_(0, here, torch.zeros(len(here)))
        # Row by row, so that no row's figures depend on its neighbours.
        dots = torch.stack([torch.dot(*pair) for pair in zip(mass, shifted, strict=True)])
        # Masked tokens: 0 * -inf. To look for it costs less than to guard every row.
        if bool(dots.isnan().any()):
            shifted.clamp_(min=_FLOOR)
            dots = torch.stack([torch.dot(*pair) for pair in zip(mass, shifted, strict=True)])
        moments.append(dots)
        sums += [row.sum() for row in mass]
    return shift[:, 0], torch.stack([torch.stack(sums), torch.cat(moments)]), cells


def _block(logits: torch.Tensor, rows: IntArray) -> torch.Tensor:
    """Return some rows: a view where they lie together, as they mostly do."""
    first, last = int(rows[0]), int(rows[-1]) + 1
    if last - first == len(rows) and (np.diff(rows) == 1).all():
        return logits[first:last]
    return logits[torch.from_numpy(rows)]


def _all_at_once(
    logits: torch.Tensor, rows: IntArray, within: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Read on a GPU, which is not waited for here; returns what `_block_by_block` does."""
    x = logits[torch.from_numpy(rows).to(logits.device)]
    shift = x.amax(dim=-1, keepdim=True).mul_(-_LOG2_E)
    shifted = torch.add(shift, x, alpha=_LOG2_E).clamp_(min=_FLOOR)
    mass = torch.exp2(shifted)
    mass.view(-1).index_fill_(0, within, 0.0)
    tail = torch.stack([mass.sum(dim=-1), (mass * shifted).sum(dim=-1)])
    return shift[:, 0], tail, x.view(-1).index_select(0, within)


def _sums(values: torch.Tensor, sizes: IntArray) -> torch.Tensor:
    """Sum `values` in runs of `sizes`; shape (sizes,)."""
    if values.device.type != "cpu":
        return torch.segment_reduce(
            values, "sum", lengths=torch.from_numpy(sizes).to(values.device), initial=0.0
        )
    # NumPy's is three times as fast here; it knows no empty runs.
    sums = np.zeros(len(sizes), dtype=np.float32)
    filled = np.flatnonzero(sizes)
    if len(filled):
        begins = (np.cumsum(sizes) - sizes)[filled]
        sums[filled] = np.add.reduceat(values.numpy(), begins)
    return torch.from_numpy(sums)
