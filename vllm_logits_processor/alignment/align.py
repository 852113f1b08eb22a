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
from vllm_logits_processor.arrays import FloatArray, IntArray


@dataclass(frozen=True, kw_only=True, eq=False)
class RowFactors:
    """The factors `m` of one row, apart from the step that they were made in.

    A few hundred numbers in arrays of their own: neither the step's other rows nor anything on a
    GPU stays alive with them.

    Attributes
    ----------
    maps : AlignmentMaps
        Those of the pair, which all rows share.
    experts : int64 array, shape (K,)
        The expert's tokens.
    groups : float64 array, shape (K + 1,)
        m of the members by f of each, singles excepted, and of the tail.
    tokens : int64 array, shape (singles,)
        Host tokens with a factor of their own, sorted.
    factors : float64 array, shape (singles,)
    """

    maps: AlignmentMaps
    experts: IntArray
    groups: FloatArray
    tokens: IntArray
    factors: FloatArray

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
    """The expert's word on some rows, as factors `m` on the host's probabilities.

    Attributes
    ----------
    maps : AlignmentMaps
    top : ExpertTopK
    groups : StepGroups
    index : int64 tensor, shape (members,), or None
        On a GPU, the members as places in ``logits.view(-1)``; they are there already.
    factors : float64 array, shape (parts,)
        m of each group's members by f, singles excepted, and of each row's tail; then of the tokens
        that g puts into a group.
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
    index: torch.Tensor | None
    factors: FloatArray
    host_entropy: FloatArray
    expert_entropy: FloatArray
    disagreement: FloatArray
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
    sums = row_sums(logits, rows, groups, maps)
    mass, singles = groups.without_singles(sums.mass)
    plogp, singles_plogp = groups.without_singles(sums.plogp)
    ratio, feasible = _ratios(mass + groups.linked_sums(singles), top)
    single_ratio = groups.single_sums(ratio)
    single_ratio[~feasible[groups.single_row]] = 1.0
    factors = groups.with_singles(ratio, single_ratio)

    # Singles that a group holds by f stand in its sums too: they count once, by their own factor.
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
        host_entropy=-groups.row_sums(own_plogp),
        expert_entropy=-groups.row_sums(factors * own_plogp + scaled * own_mass),
        disagreement=groups.row_sums((scaled / 2 - middle) * own_mass),
        feasible=feasible,
    )


def _ratios(host: FloatArray, top: ExpertTopK) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return the expert's mass over the host's, and in which rows something is feasible.

    Mass on what the host cannot produce goes back to the rest, in proportion.

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


def _xlogx(values: FloatArray) -> FloatArray:
    """Return x ln x, 0 at 0."""
    # torch's logarithm of doubles is a vector's, NumPy's only where there is AVX-512.
    logs = torch.from_numpy(np.maximum(values, np.finfo(np.float64).tiny)).log_()
    return np.asarray(values * logs.numpy())
