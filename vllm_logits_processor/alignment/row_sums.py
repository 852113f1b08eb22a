"""What one pass over the host's rows tells of the groups, the singles and the tail.

A CPU reads row by row, so that a row is still in its cache when its members are picked out of it,
with as few calls a row as can be: the cache forgets the interpreter too. A GPU reads all rows at
once, and gives back all figures in one transfer.

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


@dataclass(frozen=True, kw_only=True)
class PartSums:
    """Sums over each of some parts of the host's distribution.

    Attributes
    ----------
    mass : float64 array, shape (parts,)
        Sum of p.
    plogp : float64 array, shape (parts,)
        Sum of p ln p, nats.
    """

    mass: FloatArray
    plogp: FloatArray


@dataclass(frozen=True, kw_only=True)
class RowSums:
    """Sums over the parts of some rows.

    Attributes
    ----------
    groups : PartSums, shape (groups,)
        The members by f of each group, singles among them.
    singles : PartSums, shape (singles,)
    tail : PartSums, shape (rows,)
        All that is in no group.
    index : int64 tensor, shape (members,)
    cells : float32 tensor, shape (members,)
        See :class:`vllm_logits_processor.alignment.reweigh.Aligned`.
    """

    groups: PartSums
    singles: PartSums
    tail: PartSums
    index: torch.Tensor
    cells: torch.Tensor


class _Scratch(threading.local):
    """Two rows of floats that stay allocated: fresh memory costs more than what is done in it."""

    held = torch.empty(2, 0)

    def rows(self, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return two float32 tensors of shape (columns,); what stands in them is old."""
        if self.held.shape[1] != columns:
            self.held = torch.empty(2, columns)
        return self.held[0], self.held[1]


_scratch = _Scratch()


def row_sums(logits: torch.Tensor, rows: IntArray, groups: StepGroups) -> RowSums:
    """Read the rows once; see :func:`vllm_logits_processor.alignment.reweigh.align`."""
    device, count = logits.device, len(rows)
    row_sizes = groups.sizes.sum(axis=1)
    index = torch.from_numpy(groups.tokens + np.repeat(rows * logits.shape[1], row_sizes))
    index = index.to(device)
    read = _row_by_row if device.type == "cpu" else _all_at_once
    maximum, tail, cells = read(logits, rows, index, row_sizes)
    # To compute the members' exp anew takes less than to pick it out of the row's.
    sizes = torch.from_numpy(row_sizes).to(device)
    shifted = torch.add(
        maximum.mul(-_LOG2_E).repeat_interleave(sizes, output_size=len(cells)),
        cells,
        alpha=_LOG2_E,
    )
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
    of_tail, by_group, by_single = np.split(
        figures.cpu().numpy().astype(np.float64), [count, count + groups.sizes.size], axis=1
    )
    by_group = by_group.reshape(2, *groups.sizes.shape)
    return _normalised(groups, of_tail, by_group, by_single, index, cells)


def _row_by_row(
    logits: torch.Tensor, rows: IntArray, index: torch.Tensor, row_sizes: IntArray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Read on a CPU.

    Returns
    -------
    maximum : torch.Tensor, shape (rows,), float32
    tail : torch.Tensor, shape (2, rows), float32
        Sums of ``y = exp(x - maximum)`` and of y log2 y over what is not in `index`.
    cells : torch.Tensor, shape (members,), float32
        The logits at `index`.
    """
    columns = logits.shape[1]
    shifted, mass = _scratch.rows(columns)
    cells = torch.empty(len(index))
    sizes = row_sizes.tolist()
    zeros = torch.zeros(max(sizes))
    figures = []
    for row, places, of_cells in zip(
        rows.tolist(), index.split(sizes), cells.split(sizes), strict=True
    ):
        x = logits[row]
        here = places - row * columns
        maximum = x.amax()
        torch.add(maximum * -_LOG2_E, x, alpha=_LOG2_E, out=shifted)
        torch.exp2(shifted, out=mass)
        torch.index_select(x, 0, here, out=of_cells)
        # What is known is taken out of the row: a difference of sums would drown a small tail.
        mass.scatter_(0, here, zeros[: len(here)])
        moment = torch.dot(mass, shifted)
        # Masked tokens: 0 * -inf. To look for it costs less than to guard every row.
        if bool(moment.isnan()):
            moment = torch.dot(mass, shifted.clamp_(min=_FLOOR))
        figures += [maximum, mass.sum(), moment]
    found = torch.stack(figures).view(-1, 3).T
    return found[0], found[1:], cells


def _all_at_once(
    logits: torch.Tensor, rows: IntArray, index: torch.Tensor, row_sizes: IntArray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Read on a GPU, which is not waited for here; returns what `_row_by_row` does."""
    device, columns = logits.device, logits.shape[1]
    x = logits[torch.from_numpy(rows).to(device)]
    maximum = x.amax(dim=-1, keepdim=True)
    shifted = torch.add(maximum * -_LOG2_E, x, alpha=_LOG2_E).clamp_(min=_FLOOR)
    mass = torch.exp2(shifted)
    places = np.repeat((np.arange(len(rows)) - rows) * columns, row_sizes)
    mass.view(-1).index_fill_(0, index + torch.from_numpy(places).to(device), 0.0)
    tail = torch.stack([mass.sum(dim=-1), (mass * shifted).sum(dim=-1)])
    return maximum[:, 0], tail, logits.view(-1).index_select(0, index)


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


def _normalised(
    groups: StepGroups,
    tail: FloatArray,
    by_group: FloatArray,
    by_single: FloatArray,
    index: torch.Tensor,
    cells: torch.Tensor,
) -> RowSums:
    """Turn sums of y and y log2 y into sums of p and p ln p."""
    partition = tail[0] + by_group[0].sum(axis=1)
    log_partition = np.log(partition)
    row = np.repeat(np.arange(len(partition)), groups.width)

    def sums(values: FloatArray, row: IntArray) -> PartSums:
        mass = values[0] / partition[row]
        moment = values[1] / partition[row] * _LN_2
        return PartSums(mass=mass, plogp=moment - mass * log_partition[row])

    return RowSums(
        groups=sums(by_group[:, :, : groups.width].reshape(2, groups.count), row),
        singles=sums(by_single, groups.single_row),
        tail=sums(tail, np.arange(len(partition))),
        index=index,
        cells=cells,
    )
