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
    device, count = logits.device, len(rows)
    row_sizes = groups.sizes.sum(axis=1)
    tokens = torch.from_numpy(groups.tokens)
    if device.type == "cpu":
        tail, cells, shifted, index = _row_by_row(logits, rows, tokens, row_sizes)
    else:
        tail, cells, shifted, index = _all_at_once(logits, rows, tokens, row_sizes)
    # To compute the members' exp anew takes less than to pick it out of the row's.
    mass = torch.exp2(
        shifted, out=_scratch.floats("mass", len(cells)) if device.type == "cpu" else None
    )
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
    logits: torch.Tensor, rows: IntArray, tokens: torch.Tensor, row_sizes: IntArray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Read on a CPU.

    Returns
    -------
    tail : torch.Tensor, shape (2, rows), float32
        Sums of ``y = exp(x - max)`` and of y log2 y over what is no member.
    cells : torch.Tensor, shape (members,), float32
        x of the members.
    shifted : torch.Tensor, shape (members,), float32
        log2 y of the members.
    index : torch.Tensor, shape (members,), int64
        Their places in ``logits.view(-1)``.
    """
    columns, sizes = logits.shape[1], row_sizes.tolist()
    row_shifted = _scratch.floats("row shifted", columns)
    row_mass = _scratch.floats("row mass", columns)
    cells, shifted = torch.empty(len(tokens)), _scratch.floats("shifted", len(tokens))
    index, zeros = torch.empty_like(tokens), torch.zeros(max(sizes))
    parts = (part.split(sizes) for part in (tokens, cells, shifted, index))
    figures = []
    for row, here, of_cells, of_shifted, of_index in zip(rows.tolist(), *parts, strict=True):
        x = logits[row]
        shift = x.amax().mul_(-_LOG2_E)
        torch.add(shift, x, alpha=_LOG2_E, out=row_shifted)
        torch.exp2(row_shifted, out=row_mass)
        torch.index_select(x, 0, here, out=of_cells)
        torch.add(shift, of_cells, alpha=_LOG2_E, out=of_shifted)
        torch.add(here, row * columns, out=of_index)
        # What is known is taken out of the row: a difference of sums would drown a small tail.
        row_mass.scatter_(0, here, zeros[: len(here)])
        moment = torch.dot(row_mass, row_shifted)
        # Masked tokens: 0 * -inf. To look for it costs less than to guard every row.
        if bool(moment.isnan()):
            moment = torch.dot(row_mass, row_shifted.clamp_(min=_FLOOR))
        figures += [row_mass.sum(), moment]
    return torch.stack(figures).view(-1, 2).T, cells, shifted, index


def _all_at_once(
    logits: torch.Tensor, rows: IntArray, tokens: torch.Tensor, row_sizes: IntArray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Read on a GPU, which is not waited for here; returns what `_row_by_row` does."""
    device, columns = logits.device, logits.shape[1]
    x = logits[torch.from_numpy(rows).to(device)]
    shift = x.amax(dim=-1, keepdim=True).mul_(-_LOG2_E)
    row_shifted = torch.add(shift, x, alpha=_LOG2_E).clamp_(min=_FLOOR)
    mass = torch.exp2(row_shifted)
    places = tokens + torch.from_numpy(np.repeat(np.arange(len(rows)) * columns, row_sizes))
    index = tokens + torch.from_numpy(np.repeat(rows * columns, row_sizes))
    here = places.to(device)
    mass.view(-1).index_fill_(0, here, 0.0)
    return (
        torch.stack([mass.sum(dim=-1), (mass * row_shifted).sum(dim=-1)]),
        x.view(-1).index_select(0, here),
        row_shifted.view(-1).index_select(0, here),
        index.to(device),
    )


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
