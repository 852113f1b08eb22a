"""What one pass over the host's rows tells of the groups, the singles and the tails.

On a CPU the pass is compiled, see :mod:`vllm_logits_processor.alignment.cpu_pass`. Elsewhere torch
makes it on the device, all rows at once and without waiting, and gives back all figures in one
transfer.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import numpy.typing as npt
import torch

from vllm_logits_processor.alignment.groups import StepGroups
from vllm_logits_processor.alignment.maps import AlignmentMaps
from vllm_logits_processor.arrays import FloatArray, IntArray

#: exp of this is zero in float32, and 0 times it is no NaN: it stands for -inf.
_FLOOR = -200.0


@dataclass(frozen=True, kw_only=True)
class RowSums:
    """Sums over the parts of some rows: groups (singles among them), tails, and singles.

    Attributes
    ----------
    mass : float64 array, shape (parts,)
        Sum of p.
    plogp : float64 array, shape (parts,)
        Sum of p ln p, nats.
    index : int64 tensor, shape (members,), or None
        See :class:`vllm_logits_processor.alignment.align.Aligned`.
    """

    mass: FloatArray
    plogp: FloatArray
    index: torch.Tensor | None = None


class _Scratch(threading.local):
    """A row of floats that stays allocated: fresh memory costs more than what is done in it."""

    held: npt.NDArray[np.float32] = np.empty(0, dtype=np.float32)

    def row(self, columns: int) -> npt.NDArray[np.float32]:
        """Return a float32 array of shape (columns,); what stands in it is old."""
        if len(self.held) < columns:
            self.held = np.empty(columns, dtype=np.float32)
        return self.held[:columns]


_scratch = _Scratch()


def make_pass() -> None:
    """Compile the pass over the rows, or load it: at a server's start, not in its first step."""
    import_module("vllm_logits_processor.alignment.cpu_pass")


def row_sums(
    logits: torch.Tensor, rows: IntArray, groups: StepGroups, maps: AlignmentMaps
) -> RowSums:
    """Read the rows, on the device that they are on.

    Parameters
    ----------
    logits : torch.Tensor, shape (batch, vocabulary), float32, contiguous
        Read, and left as they are.
    rows : int64 array, shape (rows,)
        Those to read.
    groups : StepGroups
        The groups of these rows.
    maps : AlignmentMaps
        The maps that `groups` was made from.
    """
    if logits.device.type != "cpu":
        return row_sums_on_device(logits, rows, groups, maps)
    from vllm_logits_processor.alignment.cpu_pass import read_rows

    table = np.empty((2, *groups.sizes.shape))
    singles = np.empty((2, len(groups.single_row)))
    shifts = np.empty(len(rows))
    read_rows(
        logits.numpy(),
        rows,
        np.asarray(maps.members),
        groups.begins,
        groups.sizes,
        groups.single_row,
        groups.single_token,
        groups.single_group,
        _scratch.row(logits.shape[1]),
        table,
        singles,
        shifts,
    )
    parts = np.concatenate([table.reshape(2, -1), singles], axis=1)
    # Singles that no group holds by f are in no column of the table.
    new = groups.single_group < 0
    more = np.bincount(groups.single_row[new], singles[0, new], minlength=len(rows))
    return _normalised(
        groups,
        parts,
        partition=table[0].sum(axis=1) + more,
        shifts=shifts,
    )


def row_sums_on_device(
    logits: torch.Tensor, rows: IntArray, groups: StepGroups, maps: AlignmentMaps
) -> RowSums:
    """Read the rows with torch's own operations, wherever they are; see `row_sums`."""
    device, columns, count = logits.device, logits.shape[1], len(rows)
    per_row = groups.sizes.sum(axis=1)
    tokens = groups.tokens(maps)
    index = torch.from_numpy(tokens + np.repeat(rows * columns, per_row)).to(device)
    within = torch.from_numpy(tokens + np.repeat(np.arange(count) * columns, per_row)).to(device)
    sizes = torch.from_numpy(groups.sizes.reshape(-1)).to(device)
    singles = torch.from_numpy(groups.single_at).to(device)

    x = logits[torch.from_numpy(rows).to(device)]
    shifted = torch.sub(x, x.amax(dim=-1, keepdim=True)).clamp_(min=_FLOOR)
    mass = shifted.exp()
    of_members = torch.stack(
        [each.view(-1).index_select(0, within) for each in (mass, mass * shifted)]
    )
    # What is known is taken out of the rows: a difference of sums would drown a small tail.
    mass.view(-1).index_fill_(0, within, 0.0)
    tail = torch.stack([mass.sum(dim=-1), (mass * shifted).sum(dim=-1)])
    by_group = torch.stack(
        [torch.segment_reduce(each, "sum", lengths=sizes, initial=0.0) for each in of_members]
    )
    figures = torch.cat([tail, by_group, of_members.index_select(1, singles)], dim=1)
    found = figures.cpu().numpy().astype(np.float64)
    table = found[:, count : count + groups.sizes.size].reshape(2, *groups.sizes.shape)
    partition = found[0, :count] + table[0].sum(axis=1)
    # Singles that no known group holds are counted; from here on the last column is the tail, with
    # those that only a rest holds.
    of_singles = found[:, count + groups.sizes.size :]
    tails = groups.owned_sums(of_singles[0])[:, -1], groups.owned_sums(of_singles[1])[:, -1]
    table[:, :, -1] = found[:, :count] + np.stack(tails)
    return _normalised(
        groups,
        found[:, count:],
        partition=partition,
        shifts=np.zeros(count),
        index=index,
    )


def _normalised(
    groups: StepGroups,
    parts: FloatArray,
    *,
    partition: FloatArray,
    shifts: FloatArray,
    index: torch.Tensor | None = None,
) -> RowSums:
    """Turn sums of y and x y into sums of p = y / partition and of p ln p.

    ``ln p`` is x less the row's entry in `shifts` and the logarithm of `partition`.
    """
    rows = groups.part_rows
    mass, moment = parts / partition[rows]
    offset = shifts + np.log(partition)
    return RowSums(mass=mass, plogp=moment - mass * offset[rows], index=index)
