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

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from vllm_logits_processor.alignment.groups import ExpertTopK, StepGroups, step_groups
from vllm_logits_processor.alignment.maps import AlignmentMaps
from vllm_logits_processor.alignment.scratch import scratch
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
            scratch.array("row", columns, np.float32),
            scratch.array("peaks", -(-columns // BLOCK), np.int32),
            scratch.array("listed", len(maps.extra), np.int32),
            scratch.array("chosen", columns, np.int64),
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
        table=found.table,
        singles=found.singles,
        held=(found.held_row, found.held_token, found.of_held),
        shifts=np.zeros(len(rows)),
    )


def _normalised(
    groups: StepGroups,
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
    from vllm_logits_processor.alignment.part_sums import add_up, normalise

    if len(held[0]):
        groups, singles, is_held = _with_held(groups, singles, held)
    else:
        is_held = np.zeros(len(groups.single_row), dtype=np.bool_)
    columns, flat = table.shape[2], table.reshape(-1)
    partition = np.empty(len(shifts))
    add_up(flat, singles, columns, groups.single_row, groups.single_group, is_held, partition)
    mass, plogp = np.empty((2, groups.sizes.size + len(is_held)))
    offset = shifts + np.log(partition)
    normalise(flat, singles, columns, groups.single_row, partition, offset, mass, plogp)
    return RowSums(groups=groups, held=is_held, mass=mass, plogp=plogp)


def _with_held(
    groups: StepGroups, singles: Float64Array, held: tuple[IntArray, IntArray, Float64Array]
) -> tuple[StepGroups, Float64Array, npt.NDArray[np.bool_]]:
    """Take the tokens that are held down out of the tails, in no group.

    Returns
    -------
    groups : StepGroups
    singles : float64 array, shape (2, singles)
        The sums of all singles.
    is_held : bool array, shape (singles,)
        Which of them are held down.
    """
    from vllm_logits_processor.alignment.group_search import with_more_singles

    rows, tokens, sums = held
    merged = np.empty((2, len(groups.single_row) + len(rows)))
    row, token, group, place, added = with_more_singles(
        groups.single_row,
        groups.single_token,
        groups.single_group,
        # Those of a device may be views.
        np.ascontiguousarray(rows),
        np.ascontiguousarray(tokens),
        np.ascontiguousarray(singles),
        np.ascontiguousarray(sums),
        merged,
    )
    sizes = groups.sizes.copy()
    sizes[:, -1] += np.bincount(rows, minlength=len(sizes))
    is_held = np.zeros(len(row), dtype=np.bool_)
    is_held[added] = True
    groups = replace(
        groups,
        sizes=sizes,
        link_single=place[groups.link_single],
        single_row=row,
        single_token=token,
        single_group=group,
    )
    return groups, merged, is_held


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
    from vllm_logits_processor.alignment.part_sums import share_out, signals

    caps = tail_caps(top, maps)
    sums = row_sums(logits, rows, step_groups(maps, top), maps, token_ids=top.token_ids, caps=caps)
    groups, mass, plogp = sums.groups, sums.mass, sums.plogp
    factors, to_log = np.empty(len(mass)), np.empty(2 * len(mass))
    feasible = np.empty(len(rows), dtype=np.bool_)
    share_out(
        mass,
        plogp,
        top.masses,
        top.known,
        caps,
        groups.link_group,
        groups.link_single,
        groups.single_row,
        groups.single_group,
        sums.held,
        factors,
        to_log,
        feasible,
    )
    # torch vectorises the logarithm of doubles, NumPy only with AVX-512.
    logs = torch.from_numpy(to_log).log_().numpy()
    entropies, columns = np.empty((3, len(rows))), groups.sizes.shape[1]
    signals(mass, plogp, factors, logs, groups.single_row, columns, *entropies)
    host_entropy, expert_entropy, disagreement = entropies
    return Aligned(
        maps=maps,
        top=top,
        groups=groups,
        factors=factors,
        mass=mass,
        host_entropy=host_entropy,
        expert_entropy=expert_entropy,
        disagreement=disagreement,
        feasible=feasible,
    )
