"""The maths of one decoding step: reweigh the host's own tokens by what the expert says.

With ``P(G)`` the host's mass on a group and ``e(u)`` the expert's probability of token `u`,

    q(v) = p(v) * m(v),    m(v) = sum over groups G(u) that hold v of e(u) / P(G(u)).

Only the expert's top K is known. The rest of its mass is one more group, the tail: every host token
in no known group. So `m` is one constant for all but the members of K groups, and everything a
router needs, entropies and disagreement included, follows from three figures of the tail
(its maximum, the sum of exp and the first moment, one pass over the row) and from the members.

The row is read in float32, as it is; the few members are dealt with in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vllm_logits_processor.alignment.groups import ExpertTopK, StepGroups, step_groups
from vllm_logits_processor.alignment.maps import AlignmentMaps

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: exp(-EXP_FLOOR) is zero in float32: lower logits add nothing, and 0 * -inf is avoided.
EXP_FLOOR = 200.0


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """The expert's word on some rows, as factors `m` on the host's probabilities.

    Attributes
    ----------
    rows, tokens : int64 arrays, shape (members,)
        Members of the known groups: index into the rows given, and host token.
    logits : float64 array, shape (members,)
        The host's logits of the members.
    factor : float64 array, shape (members,)
        m of the members.
    tail_factor : float64 array, shape (rows,)
        m of every other token of the row.
    host_entropy, expert_entropy : float64 arrays, shape (rows,)
        Entropies of the host's distribution and of q, nats.
    disagreement : float64 array, shape (rows,)
        Jensen-Shannon divergence of the two, nats.
    feasible : bool array, shape (rows,)
        False where the expert's whole mass is on tokens that the host can't produce; m is then 1.
    """

    rows: IntArray
    tokens: IntArray
    logits: FloatArray
    factor: FloatArray
    tail_factor: FloatArray
    host_entropy: FloatArray
    expert_entropy: FloatArray
    disagreement: FloatArray
    feasible: npt.NDArray[np.bool_]

    def factor_of(self, row: int, token: int) -> float:
        """Return m of one host token of one row."""
        at = np.flatnonzero((self.rows == row) & (self.tokens == token))
        return float(self.factor[at[0]] if len(at) else self.tail_factor[row])


@dataclass(frozen=True, kw_only=True)
class _Tail:
    """One pass over the rows without the members: maximum, sum of exp, first moment; (rows,)."""

    maximum: FloatArray
    exp_sum: FloatArray
    moment: FloatArray


def align(logits: torch.Tensor, rows: IntArray, top: ExpertTopK, maps: AlignmentMaps) -> Aligned:
    """Turn the expert's top-K into factors on the host's probabilities.

    Parameters
    ----------
    logits : torch.Tensor, shape (batch, vocabulary), float32
        The host's raw logits; masked tokens at -inf. Members are masked in place during the pass
        and put back: on return the tensor holds what it held, bit for bit.
    rows : int64 array, shape (rows,)
        The rows of `logits` that `top` speaks of.
    top : ExpertTopK
        The expert's top-K of those rows.
    maps : AlignmentMaps
        The maps of the pair of tokenizers.

    Returns
    -------
    Aligned
        With ``sum(q) = 1`` for every feasible row.
    """
    groups = step_groups(maps, top)
    flat = torch.from_numpy(rows[groups.rows] * logits.shape[1] + groups.tokens).to(logits.device)
    cells = logits.view(-1)
    kept = cells[flat]
    cells[flat] = torch.finfo(logits.dtype).min
    try:
        tail = _tail_statistics(logits, rows)
    finally:
        cells[flat] = kept
    return _factors(groups, kept.cpu().numpy().astype(np.float64), tail, top)


def _tail_statistics(masked: torch.Tensor, rows: IntArray) -> _Tail:
    """Reduce each row to three figures; row by row, so that a row stays in the cache."""
    figures = torch.empty(3, len(rows), dtype=torch.float32, device=masked.device)
    shifted = torch.empty(masked.shape[1], dtype=torch.float32, device=masked.device)
    exp = torch.empty_like(shifted)
    for place, row in enumerate(rows.tolist()):
        maximum = masked[row].amax()
        torch.sub(masked[row], maximum, out=shifted)
        torch.exp(shifted.clamp_(min=-EXP_FLOOR), out=exp)
        figures[0, place] = maximum
        figures[1, place] = exp.sum()
        figures[2, place] = torch.dot(exp, shifted)
    maximum, exp_sum, moment = figures.cpu().numpy().astype(np.float64)
    # A tail that holds masked tokens alone has no mass.
    empty = maximum <= np.finfo(np.float32).min
    return _Tail(
        maximum=np.where(empty, -np.inf, maximum),
        exp_sum=np.where(empty, 0.0, exp_sum),
        moment=np.where(empty, 0.0, moment),
    )


def _factors(
    groups: StepGroups, member_logits: FloatArray, tail: _Tail, top: ExpertTopK
) -> Aligned:
    count, width = top.logprobs.shape
    highest = tail.maximum.copy()
    np.maximum.at(highest, groups.rows, member_logits)
    member_exp = np.exp(member_logits - highest[groups.rows])
    # exp(-inf) of an empty tail is 0, as it should be.
    tail_exp = np.exp(tail.maximum - highest)
    partition = tail_exp * tail.exp_sum + np.bincount(groups.rows, member_exp, minlength=count)

    host = member_exp / partition[groups.rows]
    host_groups = groups.group_sums(host)
    host_tail = tail_exp * tail.exp_sum / partition

    # Mass on what the host cannot produce goes back to the rest, in proportion.
    expert = np.exp(top.logprobs)
    known = expert.sum(axis=1)
    expert /= np.maximum(known, 1.0)[:, None]
    expert = np.where((host_groups > 0).reshape(count, width), expert, 0.0)
    expert_tail = np.where(host_tail > 0, np.maximum(1.0 - known, 0.0), 0.0)
    total = expert.sum(axis=1) + expert_tail
    feasible = total > 0
    scale = np.divide(1.0, total, out=np.zeros(count), where=feasible)
    ratio = np.divide(
        (expert * scale[:, None]).reshape(-1),
        host_groups,
        out=np.zeros(groups.count),
        where=host_groups > 0,
    )
    tail_factor = np.divide(
        expert_tail * scale, host_tail, out=np.zeros(count), where=host_tail > 0
    )
    factor = np.where(feasible[groups.rows], groups.member_sums(ratio), 1.0)
    tail_factor = np.where(feasible, tail_factor, 1.0)

    # sum over the tail of p ln p, from its first moment.
    log_partition = highest + np.log(partition)
    shift = np.where(host_tail > 0, tail.maximum - log_partition, 0.0)
    tail_plogp = tail_exp / partition * tail.moment + host_tail * shift
    fused = host * factor

    def row_sums(members: FloatArray) -> FloatArray:
        return np.bincount(groups.rows, members, minlength=count).astype(np.float64)

    return Aligned(
        rows=groups.rows,
        tokens=groups.tokens,
        logits=member_logits,
        factor=factor,
        tail_factor=tail_factor,
        host_entropy=-row_sums(_xlogx(host)) - tail_plogp,
        expert_entropy=-row_sums(_xlogx(fused))
        - tail_factor * tail_plogp
        - host_tail * _xlogx(tail_factor),
        disagreement=row_sums(_divergence(host, fused))
        + host_tail * _divergence(np.ones(count), tail_factor),
        feasible=feasible,
    )


def _xlogx(values: FloatArray) -> FloatArray:
    """Return x ln x, 0 at 0."""
    logs: FloatArray = np.log(np.where(values > 0, values, 1.0))
    return values * logs


def _divergence(first: FloatArray, second: FloatArray) -> FloatArray:
    """Return the terms of the Jensen-Shannon divergence of two sets of masses, nats."""
    return (_xlogx(first) + _xlogx(second)) / 2 - _xlogx((first + second) / 2)
