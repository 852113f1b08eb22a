"""The maths of one decoding step: reweigh the host's own tokens by what the expert says.

With ``P(G)`` the host's mass on a group and ``e(u)`` the expert's probability of token `u`,

    q(v) = p(v) * m(v),    m(v) = sum over groups G(u) that hold v of e(u) / P(G(u)).

Only the expert's top K is known. The rest of its mass is one more group, the tail: every host token
in no known group. `m` is one constant for the tail, and one for each group's members by f; only the
few tokens that g puts into a group have one of their own. So everything a router needs, entropies
and disagreement included, follows from two sums over each of these parts, ``sum p`` and
``sum p ln p``, whatever the parts' sizes; see :mod:`vllm_logits_processor.alignment.row_sums`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vllm_logits_processor.alignment.groups import ExpertTopK, StepGroups, step_groups
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps
from vllm_logits_processor.alignment.row_sums import row_sums

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """The expert's word on some rows, as factors `m` on the host's probabilities.

    Attributes
    ----------
    maps : AlignmentMaps
    top : ExpertTopK
    groups : StepGroups
    index : int64 tensor, shape (members,)
        The members as places in ``logits.view(-1)``, none twice.
    cells : float32 tensor, shape (members,)
        What stands there.
    group_factor : float64 array, shape (groups,)
        m of the group's members by f, singles excepted.
    single_factor : float64 array, shape (singles,)
        m of the tokens that g puts into a group.
    tail_factor : float64 array, shape (rows,)
        m of every other token of the row.
    host_entropy, expert_entropy : float64 arrays, shape (rows,)
        Entropies of the host's distribution and of q, nats.
    disagreement : float64 array, shape (rows,)
        Jensen-Shannon divergence of the two, nats.
    feasible : bool array, shape (rows,)
        False where the expert's whole mass is on tokens that the host can't produce; m is then 1.
    """

    maps: AlignmentMaps
    top: ExpertTopK
    groups: StepGroups
    index: torch.Tensor
    cells: torch.Tensor
    group_factor: FloatArray
    single_factor: FloatArray
    tail_factor: FloatArray
    host_entropy: FloatArray
    expert_entropy: FloatArray
    disagreement: FloatArray
    feasible: npt.NDArray[np.bool_]

    # What follows has a value for every member: for a look at single tokens, not for decoding.

    @property
    def rows(self) -> IntArray:
        """Which of the rows given each member is in, shape (members,)."""
        return np.repeat(np.arange(len(self.tail_factor)), self.groups.sizes.sum(axis=1))

    @property
    def tokens(self) -> IntArray:
        """The host token of each member, shape (members,)."""
        return self.groups.tokens

    @property
    def logits(self) -> FloatArray:
        """The host's logit of each member, shape (members,)."""
        return self.cells.cpu().numpy().astype(np.float64)

    @property
    def factor(self) -> FloatArray:
        """The factor m of each member, shape (members,)."""
        return self.groups.spread(self.group_factor, self.single_factor)

    def factor_of(self, row: int, token: int) -> float:
        """Return m of one host token of one row."""
        groups = self.groups
        first, last = np.searchsorted(groups.single_row, [row, row + 1])
        at = first + np.searchsorted(groups.single_token[first:last], token)
        if at < last and groups.single_token[at] == token:
            return float(self.single_factor[at])
        # The logits may have more columns than the tokenizer has tokens.
        first_expert = self.maps.first_expert
        owner = first_expert[token] if token < len(first_expert) else NOTHING
        known = np.flatnonzero(self.top.token_ids[row] == owner)
        if owner != NOTHING and len(known):
            return float(self.group_factor[row * groups.width + known[0]])
        return float(self.tail_factor[row])


def align(logits: torch.Tensor, rows: IntArray, top: ExpertTopK, maps: AlignmentMaps) -> Aligned:
    """Turn the expert's top-K into factors on the host's probabilities.

    Parameters
    ----------
    logits : torch.Tensor, shape (batch, vocabulary), float32, contiguous
        The host's raw logits; masked tokens at -inf. Read, and left as they are.
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
    sums = row_sums(logits, rows, groups)
    count = len(rows)

    def per_row(values: FloatArray) -> FloatArray:
        return np.asarray(values.reshape(count, groups.width).sum(axis=1))

    def per_row_of_singles(values: FloatArray) -> FloatArray:
        return np.bincount(groups.single_row, values, minlength=count).astype(np.float64)

    host_groups = sums.groups.mass + groups.linked_sums(sums.singles.mass)
    ratio, tail_factor, feasible = _ratios(host_groups, sums.tail.mass, top)
    spread = np.repeat(feasible, groups.width)
    group_factor = np.where(spread, ratio, 1.0)
    single_factor = np.where(feasible[groups.single_row], groups.single_sums(ratio), 1.0)
    tail_factor = np.where(feasible, tail_factor, 1.0)

    # Singles that a group holds by f stand in its sums too: they count once, by their own factor.
    own_mass = np.maximum(sums.groups.mass - groups.owned_sums(sums.singles.mass), 0.0)
    own_plogp = np.minimum(sums.groups.plogp - groups.owned_sums(sums.singles.plogp), 0.0)
    host_plogp = per_row(own_plogp) + per_row_of_singles(sums.singles.plogp) + sums.tail.plogp
    terms = (
        _terms(own_mass, own_plogp, group_factor),
        _terms(sums.singles.mass, sums.singles.plogp, single_factor),
        _terms(sums.tail.mass, sums.tail.plogp, tail_factor),
    )
    expert_plogp, disagreement = (
        per_row(groups_term) + per_row_of_singles(singles_term) + tail_term
        for groups_term, singles_term, tail_term in zip(*terms, strict=True)
    )
    return Aligned(
        maps=maps,
        top=top,
        groups=groups,
        index=sums.index,
        cells=sums.cells,
        group_factor=group_factor,
        single_factor=single_factor,
        tail_factor=tail_factor,
        host_entropy=-host_plogp,
        expert_entropy=-expert_plogp,
        disagreement=disagreement,
        feasible=feasible,
    )


def _ratios(
    host_groups: FloatArray, host_tail: FloatArray, top: ExpertTopK
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Return the expert's mass over the host's: of each group, of the tail; and what is feasible.

    Mass on what the host cannot produce goes back to the rest, in proportion.
    """
    count, width = top.logprobs.shape
    expert = np.exp(top.logprobs)
    known = expert.sum(axis=1)
    expert /= np.maximum(known, 1.0)[:, None]
    expert[(host_groups <= 0).reshape(count, width)] = 0.0
    expert_tail = np.where(host_tail > 0, np.maximum(1.0 - known, 0.0), 0.0)
    total = expert.sum(axis=1) + expert_tail
    feasible = total > 0
    scale = np.divide(1.0, total, out=np.zeros(count), where=feasible)
    expert *= scale[:, None]
    ratio = np.divide(
        expert.reshape(-1), host_groups, out=np.zeros(count * width), where=host_groups > 0
    )
    tail = np.divide(expert_tail * scale, host_tail, out=np.zeros(count), where=host_tail > 0)
    return ratio, tail, feasible


def _terms(
    mass: FloatArray, plogp: FloatArray, factor: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return what parts add to two sums, from their sums of p and of p ln p; nats.

    The first is ``m p ln(m p)``, the second the Jensen-Shannon divergence of p and m p.
    """
    own, middle = _xlogx(factor), _xlogx((1.0 + factor) / 2)
    return factor * plogp + own * mass, (own / 2 - middle) * mass


def _xlogx(values: FloatArray) -> FloatArray:
    """Return x ln x, 0 at 0."""
    # torch's logarithm of doubles is a vector's, NumPy's only where there is AVX-512.
    logs = torch.from_numpy(np.maximum(values, np.finfo(np.float64).tiny)).log_()
    return np.asarray(values * logs.numpy())
