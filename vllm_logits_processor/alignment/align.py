"""Reweighs the host's tokens by the expert's distribution: the maths of one decoding step.

With ``P(G)`` the host's mass on a group and ``e(u)`` the expert's probability of token `u`,

    q(v) = p(v) * m(v),    m(v) = sum over groups G(u) that hold v of e(u) / P(G(u)).

Only the expert's top K is known. The rest of its mass is one more group, the tail: all host tokens
in no known group. `m` is constant over the tail, and over each group's members by f; only the few
tokens that g puts into a group, or that would get too much of the tail (see
:mod:`vllm_logits_processor.alignment.tail`), have an `m` of their own. So all signals of a router,
entropies and disagreement included, follow from two sums over each of these parts, ``sum p`` and
``sum p ln p``, whatever the sizes of the parts; see `row_sums`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from vllm_logits_processor.alignment.groups import ExpertTopK, StepGroups, step_groups
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps
from vllm_logits_processor.alignment.tail import tail_caps
from vllm_logits_processor.arrays import Float64Array, IntArray

#: Tokens of a row that the tail's cap may hold down before the row is read again.
_ROOM = 256


@dataclass(frozen=True, kw_only=True)
class RowSums:
    """Sums over the parts of some rows: groups (singles among them), tails, and singles.

    Attributes
    ----------
    groups : StepGroups
        The groups, with the tail tokens that the caps hold down among the singles.
    held : bool array, shape (singles,)
        Which singles these are.
    mass : float64 array, shape (parts,)
        Sum of p.
    plogp : float64 array, shape (parts,)
        Sum of p ln p, nats.
    """

    groups: StepGroups
    held: npt.NDArray[np.bool_]
    mass: Float64Array
    plogp: Float64Array


_Item = TypeVar("_Item", np.float32, np.int32, np.int64)


class _Scratch(threading.local):
    """Arrays that stay allocated, as fresh memory costs more than the computation."""

    def __init__(self) -> None:
        self._held: dict[str, npt.NDArray[Any]] = {}

    def array(self, name: str, size: int, like: type[_Item]) -> npt.NDArray[_Item]:
        """Return an array of shape (size,) with old content; -1 where there is none."""
        held = self._held.get(name)
        if held is None or len(held) < size:
            held = self._held[name] = np.full(size, -1, dtype=like)
        return held[:size]


_scratch = _Scratch()


def row_sums(
    logits: torch.Tensor,
    rows: IntArray,
    groups: StepGroups,
    maps: AlignmentMaps,
    *,
    token_ids: IntArray,
    caps: Float64Array,
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
    token_ids : int64 array, shape (rows, K)
        The expert's top K.
    caps : float64 array, shape (rows,)
        See :func:`vllm_logits_processor.alignment.tail.tail_caps`.
    """
    if logits.device.type != "cpu":
        return row_sums_on_device(logits, rows, groups, maps, token_ids=token_ids, caps=caps)
    from vllm_logits_processor.alignment.cpu_pass import BLOCK, read_rows

    columns = logits.shape[1]
    table = np.empty((2, *groups.sizes.shape))
    singles = np.empty((2, len(groups.single_row)))
    shifts = np.empty(len(rows))
    room = _ROOM * len(rows)
    while True:
        held_row, held_token = np.empty((2, room), dtype=np.int64)
        of_held = np.empty((2, room))
        count = read_rows(
            logits.numpy(),
            rows,
            np.asarray(maps.members),
            np.asarray(maps.first_expert),
            np.ascontiguousarray(token_ids),
            caps,
            groups.begins,
            groups.sizes,
            groups.single_row,
            groups.single_token,
            groups.single_group,
            _scratch.array("row", columns, np.float32),
            _scratch.array("peaks", -(-columns // BLOCK), np.int32),
            _scratch.array("listed", len(maps.extra), np.int32),
            _scratch.array("chosen", columns, np.int64),
            table,
            singles,
            shifts,
            held_row,
            held_token,
            of_held,
        )
        if count <= room:
            break
        room = count
    return _normalised(
        groups,
        maps,
        table=table,
        singles=singles,
        held=(held_row[:count], held_token[:count], of_held[:, :count]),
        shifts=shifts,
    )


def row_sums_on_device(
    logits: torch.Tensor,
    rows: IntArray,
    groups: StepGroups,
    maps: AlignmentMaps,
    *,
    token_ids: IntArray,
    caps: Float64Array,
) -> RowSums:
    """Return the sums, computed by kernels on an accelerator; see `row_sums`."""
    from vllm_logits_processor.alignment.device_pass import read_rows

    found = read_rows(logits, rows, groups, maps, token_ids=token_ids, caps=caps)
    # A row's sums are relative to its largest logit, and so is ln p.
    return _normalised(
        groups,
        maps,
        table=found.table,
        singles=found.singles,
        held=(found.held_row, found.held_token, found.of_held),
        shifts=np.zeros(len(rows)),
    )


def _normalised(
    groups: StepGroups,
    maps: AlignmentMaps,
    *,
    table: Float64Array,
    singles: Float64Array,
    held: tuple[IntArray, IntArray, Float64Array],
    shifts: Float64Array,
) -> RowSums:
    """Turn sums of y and x y into sums of p and of p ln p.

    p is y over its sum of the row, and ``ln p`` is x less the row's entry in `shifts` and that
    sum's logarithm. The tokens that are held down become singles.

    Parameters
    ----------
    table, singles : float64 arrays, shapes (2, rows, K + 1) and (2, singles)
    held : tuple of arrays
        Rows, tokens and, of shape (2, held), sums.
    """
    held_row, held_token, of_held = held
    # Singles that no group holds by f are in no column of the table.
    new = groups.single_group == NOTHING
    partition = table[0].sum(axis=1)
    for row, y in ((groups.single_row[new], singles[0, new]), (held_row, of_held[0])):
        partition += np.bincount(row, y, minlength=len(partition))
    is_held = np.zeros(len(groups.single_row), dtype=np.bool_)
    if len(held_row):
        old = len(groups.single_row)
        groups, order = groups.with_more_singles(held_row, held_token, maps)
        is_held = order >= old
        singles = np.concatenate([singles, of_held], axis=1)[:, order]
    rows = groups.part_rows
    parts = np.concatenate([table.reshape(2, -1), singles], axis=1)
    mass, moment = parts / partition[rows]
    offset = shifts + np.log(partition)
    return RowSums(groups=groups, held=is_held, mass=mass, plogp=moment - mass * offset[rows])


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """The expert's distributions for some rows, as factors `m` on the host's probabilities.

    Attributes
    ----------
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
    factors: Float64Array
    mass: Float64Array
    host_entropy: Float64Array
    expert_entropy: Float64Array
    disagreement: Float64Array
    feasible: npt.NDArray[np.bool_]


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
    caps = tail_caps(top, maps)
    sums = row_sums(logits, rows, step_groups(maps, top), maps, token_ids=top.token_ids, caps=caps)
    groups = sums.groups
    mass, singles = groups.without_singles(sums.mass)
    plogp, singles_plogp = groups.without_singles(sums.plogp)
    held_row, held_mass = groups.single_row[sums.held], singles[sums.held]
    ratio, held_share, feasible = _ratios(
        mass + groups.linked_sums(singles),
        top,
        caps=caps,
        held=np.bincount(held_row, minlength=len(rows)),
        held_mass=np.bincount(held_row, held_mass, minlength=len(rows)).astype(np.float64),
    )
    single_ratio = groups.single_sums(ratio)
    alone = np.isnan(held_share)
    single_ratio[sums.held] = np.where(
        alone[held_row], ratio[held_row, -1], held_share[held_row] / held_mass
    )
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
        factors=factors,
        mass=own_mass,
        host_entropy=-groups.row_sums(own_plogp),
        expert_entropy=-groups.row_sums(factors * own_plogp + scaled * own_mass),
        disagreement=groups.row_sums((scaled / 2 - middle) * own_mass),
        feasible=feasible,
    )


def _ratios(
    host: Float64Array,
    top: ExpertTopK,
    *,
    caps: Float64Array,
    held: IntArray,
    held_mass: Float64Array,
) -> tuple[Float64Array, Float64Array, npt.NDArray[np.bool_]]:
    """Return the expert's mass over the host's, and the rows in which something is feasible.

    Mass on tokens that the host cannot produce goes to the others, in proportion.

    Parameters
    ----------
    host : float64 array, shape (rows, K + 1)
        The host's mass on each group, and on the tail without the tokens that are held down.
    caps : float64 array, shape (rows,)
        The share of the tail that each of these gets.
    held : int64 array, shape (rows,)
        Their number.
    held_mass : float64 array, shape (rows,)
        The host's mass on them.

    Returns
    -------
    ratio : float64 array, shape (rows, K + 1)
        1 in rows where nothing is feasible.
    held_share : float64 array, shape (rows,)
        What each of the tokens that are held down gets. NaN where nothing that is listed is
        feasible, so that no token is held down: it has the factor of the tail.
    feasible : bool array, shape (rows,)
    """
    expert = np.empty(host.shape)
    np.exp(top.logprobs, out=expert[:, :-1])
    known = expert[:, :-1].sum(axis=1)
    expert[:, :-1] /= np.maximum(known, 1.0)[:, None]
    missing = np.maximum(1.0 - known, 0.0)
    each = np.where(held > 0, caps, 0.0) * missing
    expert[:, -1] = np.maximum(missing - held * each, 0.0)
    expert[host <= 0] = 0.0
    alone = (held > 0) & (expert[:, :-1].sum(axis=1) <= 0)
    host = np.where(alone[:, None], (host[:, -1] + held_mass)[:, None], host)
    expert[alone, -1], each[alone] = 1.0, np.nan
    total = expert.sum(axis=1) + np.where(alone, 0.0, held * each)
    feasible = total > 0
    ratio = np.zeros(host.shape)
    np.divide(expert, host * total[:, None], out=ratio, where=expert > 0)
    ratio[~feasible] = 1.0
    return ratio, each / np.where(feasible, total, 1.0), feasible


def _xlogx(values: Float64Array) -> Float64Array:
    """Return x ln x, 0 at 0."""
    # torch vectorises the logarithm of doubles, NumPy only with AVX-512.
    logs = torch.from_numpy(np.maximum(values, np.finfo(np.float64).tiny)).log_()
    return np.asarray(values * logs.numpy())
