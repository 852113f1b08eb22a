"""The groups of one decoding step: the host tokens that the expert's top-K speaks of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ExpertTopK:
    """What the expert says about the next token, for the rows of one step.

    Attributes
    ----------
    token_ids : int64 array, shape (rows, K)
        Expert tokens, no token twice in one row; `NOTHING` fills short rows.
    logprobs : float64 array, shape (rows, K)
        Natural logarithms of their probabilities; -inf in the fill.
    """

    token_ids: IntArray
    logprobs: FloatArray


@dataclass(frozen=True, kw_only=True)
class StepGroups:
    """Members of the known groups of a step, and which group each belongs to.

    Entry `i` of the top-K of a row is one group, numbered ``row * K + i``. No (row, token) stands
    twice among the members. A member belongs to one group by f, or to none, and to further groups
    by g through the links.

    Attributes
    ----------
    rows, tokens : int64 arrays, shape (members,)
        The row and the host token of each member.
    owner : int64 array, shape (members,)
        Its group by f; `NOTHING` for a member by g alone.
    link_member, link_group : int64 arrays, shape (links,)
        Memberships by g.
    count : int
        Number of groups, rows times K.
    """

    rows: IntArray
    tokens: IntArray
    owner: IntArray
    link_member: IntArray
    link_group: IntArray
    count: int

    def group_sums(self, values: FloatArray) -> FloatArray:
        """Sum `values`, shape (members,), over each group; returns shape (groups,)."""
        owned = self.owner != NOTHING
        by_f = np.bincount(self.owner[owned], values[owned], minlength=self.count)
        by_g = np.bincount(self.link_group, values[self.link_member], minlength=self.count)
        return np.asarray(by_f + by_g, dtype=np.float64)

    def member_sums(self, values: FloatArray) -> FloatArray:
        """Sum `values`, shape (groups,), over the groups of each member; returns (members,)."""
        sums = np.where(self.owner != NOTHING, values[self.owner], 0.0)
        sums += np.bincount(self.link_member, values[self.link_group], minlength=len(sums))
        return sums


def step_groups(maps: AlignmentMaps, top: ExpertTopK) -> StepGroups:
    """Lay out the groups of the expert's top-K, in one pass over their members."""
    rows, width = top.token_ids.shape
    entries = top.token_ids.reshape(-1)
    known = np.flatnonzero(entries != NOTHING)
    experts = entries[known]

    begins = maps.offsets[experts]
    sizes = maps.offsets[experts + 1] - begins
    starts = np.cumsum(sizes) - sizes
    owner = np.repeat(known, sizes)
    tokens = maps.members[np.arange(len(owner)) + np.repeat(begins - starts, sizes)]

    # g adds at most one token per group. Where f puts that token into another group of the same
    # row, it is already a member, at a place that can be computed; else it is a new member.
    extras = maps.extra[experts].astype(np.int64)
    has_extra = np.flatnonzero(extras != NOTHING)
    extras, link_group = extras[has_extra], known[has_extra]
    link_member = _find(maps, experts, known, starts, extras, link_group // width, width)
    is_new = link_member == NOTHING
    keys, inverse = np.unique(
        (link_group[is_new] // width) * len(maps.place) + extras[is_new], return_inverse=True
    )
    link_member[is_new] = len(owner) + inverse
    return StepGroups(
        rows=np.concatenate([owner // width, keys // len(maps.place)]),
        tokens=np.concatenate([tokens, keys % len(maps.place)]).astype(np.int64),
        owner=np.concatenate([owner, np.full(len(keys), NOTHING)]),
        link_member=link_member,
        link_group=link_group,
        count=rows * width,
    )


def _find(
    maps: AlignmentMaps,
    experts: IntArray,
    known: IntArray,
    starts: IntArray,
    tokens: IntArray,
    rows: IntArray,
    width: int,
) -> IntArray:
    """Return where each (row, host token) is a member by f; `NOTHING` where it is none."""
    stride = len(maps.extra)
    keys = (known // width) * stride + experts
    order = np.argsort(keys)
    owners = maps.first_expert[tokens].astype(np.int64)
    wanted = rows * stride + owners
    slot = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)
    entry = order[slot]
    found = (owners != NOTHING) & (keys[entry] == wanted)
    return np.where(found, starts[entry] + maps.place[tokens], NOTHING)
