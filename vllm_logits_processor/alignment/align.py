"""Reweighs the host's tokens by the expert's distribution: the maths of one decoding step.

With ``P(G)`` the host's mass on a group and ``e(u)`` the expert's probability of token `u`,

    q(v) = p(v) * m(v),    m(v) = sum over groups G(u) that hold v of e(u) / P(G(u)).

Only the expert's top K is known. The rest of its mass is one more group, the tail: all host tokens
in no known group. `m` is constant over the tail, and over each group's members by f; only the few
tokens that g puts into a group have an `m` of their own. So all signals of a router, entropies and
disagreement included, follow from two sums over each of these parts, ``sum p`` and
``sum p ln p``, whatever the sizes of the parts; see `row_sums`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import numpy.typing as npt
import torch

from vllm_logits_processor.alignment.groups import ExpertTopK, StepGroups, step_groups
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps
from vllm_logits_processor.arrays import Float64Array, IntArray

#: Replaces -inf: its exp is zero in float32, and 0 times it is not NaN.
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

    mass: Float64Array
    plogp: Float64Array
    index: torch.Tensor | None = None


class _Scratch(threading.local):
    """A row of floats that stays allocated, as fresh memory costs more than the computation."""

    held: npt.NDArray[np.float32] = np.empty(0, dtype=np.float32)

    def row(self, columns: int) -> npt.NDArray[np.float32]:
        """Return a float32 array of shape (columns,) with old content."""
        if len(self.held) < columns:
            self.held = np.empty(columns, dtype=np.float32)
        return self.held[:columns]


_scratch = _Scratch()


def make_pass() -> None:
    """Compile or load the pass over the rows at a server's start, not in its first step."""
    import_module("vllm_logits_processor.alignment.cpu_pass")


def row_sums(
    logits: torch.Tensor, rows: IntArray, groups: StepGroups, maps: AlignmentMaps
) -> RowSums:
    """Return the sums over the parts of some rows, computed on the rows' device.

    Parameters
    ----------
    logits : torch.Tensor, shape (batch, vocabulary), float32, contiguous
        Not changed.
    rows : int64 array, shape (rows,)
        The rows to read.
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
    """Return the sums by torch's own operations, on any device; see `row_sums`."""
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
    # The known groups are zeroed in the rows: a difference of sums would lose a small tail.
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
    # those that only a remainder holds.
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
    parts: Float64Array,
    *,
    partition: Float64Array,
    shifts: Float64Array,
    index: torch.Tensor | None = None,
) -> RowSums:
    """Turn sums of y and x y into sums of p = y / partition and of p ln p.

    ``ln p`` is x less the row's entry in `shifts` and the logarithm of `partition`.
    """
    rows = groups.part_rows
    mass, moment = parts / partition[rows]
    offset = shifts + np.log(partition)
    return RowSums(mass=mass, plogp=moment - mass * offset[rows], index=index)


@dataclass(frozen=True, kw_only=True, eq=False)
class RowFactors:
    """The factors `m` of one row, copied out of their step.

    These few hundred numbers have arrays of their own, so that they keep neither the step's other
    rows nor anything on a GPU alive.

    Attributes
    ----------
    maps : AlignmentMaps
        The maps of the pair, which all rows share.
    experts : int64 array, shape (K,)
        The expert's tokens.
    groups : float64 array, shape (K + 1,)
        m of each token's group members by f, singles excepted, and of the tail.
    tokens : int64 array, shape (singles,)
        Host tokens with a factor of their own, sorted.
    factors : float64 array, shape (singles,)
    """

    maps: AlignmentMaps
    experts: IntArray
    groups: Float64Array
    tokens: IntArray
    factors: Float64Array

    def of(self, token: int) -> float:
        """Return m of one host token."""
        at = int(np.searchsorted(self.tokens, token))
        if at < len(self.tokens) and self.tokens[at] == token:
            return float(self.factors[at])
        # The logits may have more columns than the tokenizer has tokens.
        first_expert = self.maps.first_expert
        owner = first_expert[token] if token < len(first_expert) else NOTHING
        known = np.flatnonzero(self.experts == owner)
        if owner != NOTHING and len(known):
            return float(self.groups[known[0]])
        return float(self.groups[-1])


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """The expert's distributions for some rows, as factors `m` on the host's probabilities.

    Attributes
    ----------
    index : int64 tensor, shape (members,), or None
        On a GPU, the members as places in ``logits.view(-1)``, already on the device.
    factors : float64 array, shape (parts,)
        m of each group's members by f, singles excepted, and of each row's tail; then of the tokens
        that g puts into a group.
    mass : float64 array, shape (parts,)
        The host's probability of these parts.
    host_entropy, expert_entropy : float64 arrays, shape (rows,)
        Entropies of the host's distribution and of q, nats.
    disagreement : float64 array, shape (rows,)
        Jensen-Shannon divergence of the two, nats.
    feasible : bool array, shape (rows,)
        False where all of the expert's mass is on tokens that the host cannot produce; m is then 1.
    """

    maps: AlignmentMaps
    top: ExpertTopK
    groups: StepGroups
    index: torch.Tensor | None
    factors: Float64Array
    mass: Float64Array
    host_entropy: Float64Array
    expert_entropy: Float64Array
    disagreement: Float64Array
    feasible: npt.NDArray[np.bool_]

    def row(self, row: int) -> RowFactors:
        """Return the factors of one row, copied."""
        groups = self.groups
        table, singles = groups.without_singles(self.factors)
        first, last = np.searchsorted(groups.single_row, [row, row + 1])
        return RowFactors(
            maps=self.maps,
            experts=self.top.token_ids[row].copy(),
            groups=table[row].copy(),
            tokens=groups.single_token[first:last].copy(),
            factors=singles[first:last].copy(),
        )

    def factor_of(self, row: int, token: int) -> float:
        """Return m of one host token of one row."""
        return self.row(row).of(token)


def align(logits: torch.Tensor, rows: IntArray, top: ExpertTopK, maps: AlignmentMaps) -> Aligned:
    """Turn the expert's top-K into factors on the host's probabilities.

    Parameters
    ----------
    logits : torch.Tensor, shape (batch, vocabulary), float32, contiguous
        The host's raw logits, masked tokens at -inf. Not changed.
    rows : int64 array, shape (rows,)
        The rows of `logits` that `top` is for.
    top : ExpertTopK
        The expert's top-K of those rows.

    Returns
    -------
    Aligned
        With ``sum(q) = 1`` for every feasible row.
    """
    groups = step_groups(maps, top)
    sums = row_sums(logits, rows, groups, maps)
    mass, singles = groups.without_singles(sums.mass)
    plogp, singles_plogp = groups.without_singles(sums.plogp)
    ratio, feasible = _ratios(mass + groups.linked_sums(singles), top)
    single_ratio = groups.single_sums(ratio)
    single_ratio[~feasible[groups.single_row]] = 1.0
    factors = groups.with_singles(ratio, single_ratio)

    # A group's sums include the singles that it holds by f: these count once, by their own factor.
    own_mass = np.maximum(mass - groups.owned_sums(singles), 0.0)
    own_plogp = np.minimum(plogp - groups.owned_sums(singles_plogp), 0.0)
    own_mass = groups.with_singles(own_mass, singles)
    own_plogp = groups.with_singles(own_plogp, singles_plogp)
    # Of a part: sum of m p ln(m p), and its terms of the Jensen-Shannon divergence of p and m p.
    scaled, middle = _xlogx(factors), _xlogx((1.0 + factors) / 2)
    return Aligned(
        maps=maps,
        top=top,
        groups=groups,
        index=sums.index,
        factors=factors,
        mass=own_mass,
        host_entropy=-groups.row_sums(own_plogp),
        expert_entropy=-groups.row_sums(factors * own_plogp + scaled * own_mass),
        disagreement=groups.row_sums((scaled / 2 - middle) * own_mass),
        feasible=feasible,
    )


def _ratios(host: Float64Array, top: ExpertTopK) -> tuple[Float64Array, npt.NDArray[np.bool_]]:
    """Return the expert's mass over the host's, and the rows in which something is feasible.

    Mass on tokens that the host cannot produce goes to the others, in proportion.

    Parameters
    ----------
    host : float64 array, shape (rows, K + 1)
        The host's mass on each group, and on the tail.

    Returns
    -------
    ratio : float64 array, shape (rows, K + 1)
        1 in rows where nothing is feasible.
    feasible : bool array, shape (rows,)
    """
    expert = np.empty(host.shape)
    np.exp(top.logprobs, out=expert[:, :-1])
    known = expert[:, :-1].sum(axis=1)
    expert[:, :-1] /= np.maximum(known, 1.0)[:, None]
    expert[:, -1] = np.maximum(1.0 - known, 0.0)
    expert[host <= 0] = 0.0
    total = expert.sum(axis=1)
    feasible = total > 0
    ratio = np.zeros(host.shape)
    np.divide(expert, host * total[:, None], out=ratio, where=expert > 0)
    ratio[~feasible] = 1.0
    return ratio, feasible


def _xlogx(values: Float64Array) -> Float64Array:
    """Return x ln x, 0 at 0."""
    # torch vectorises the logarithm of doubles, NumPy only with AVX-512.
    logs = torch.from_numpy(np.maximum(values, np.finfo(np.float64).tiny)).log_()
    return np.asarray(values * logs.numpy())
