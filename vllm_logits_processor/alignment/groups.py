"""The groups of one decoding step: the host tokens that belong to the expert's top K."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps
from vllm_logits_processor.alignment.scratch import scratch
from vllm_logits_processor.arrays import Float64Array, IntArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Remainder:
    """A group without an expert token: the remainder of a token that began in the text so far.

    Attributes
    ----------
    row, place : int
        The place of its mass in the logprobs, which has no token.
    tokens : int64 array, shape (members,)
        The host tokens that begin with those bytes, or begin their spelling; none twice.
    known : int
        How many of the first of them are known to begin no unlisted token of the expert's.
    """

    row: int
    place: int
    tokens: IntArray
    known: int = 0


@dataclass(frozen=True, kw_only=True)
class Spelled:
    """A token of an expert whose tokenizer is not known: the place of its mass, and its bytes."""

    row: int
    place: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class ExpertTopK:
    """The expert's top K of the next token, for the rows of one step.

    Attributes
    ----------
    token_ids : int64 array, shape (rows, K)
        Expert tokens, no token twice in one row; `NOTHING` fills short rows.
    logprobs : float64 array, shape (rows, K)
        Natural logarithms of their probabilities; -inf in the fill.
    remainders : tuple of Remainder
        The groups at places without a token. But for those that are `known`, they do not shrink
        the tails of their rows: the expert's unlisted tokens may be any of theirs.
    spelled : tuple of Spelled
        What is at places without a token, before `with_remainders` has made groups of it.
    """

    token_ids: IntArray
    logprobs: Float64Array
    remainders: tuple[Remainder, ...] = ()
    spelled: tuple[Spelled, ...] = ()

    @cached_property
    def masses(self) -> Float64Array:
        """The probabilities, shape (rows, K)."""
        return np.exp(np.ascontiguousarray(self.logprobs))

    @cached_property
    def known(self) -> Float64Array:
        """The sums of the rows' probabilities, shape (rows,)."""
        return np.asarray(self.masses.sum(axis=1))

    @property
    def first(self) -> ExpertTopK:
        """The first row of several."""
        return self if len(self.token_ids) == 1 else self.row(0)

    def row(self, at: int) -> ExpertTopK:
        """Return row number `at` of several, with its remainders."""
        part = slice(at, at + 1)
        return ExpertTopK(
            token_ids=self.token_ids[part],
            logprobs=self.logprobs[part],
            remainders=tuple(replace(rest, row=0) for rest in self.remainders if rest.row == at),
            spelled=tuple(replace(each, row=0) for each in self.spelled if each.row == at),
        )


def stacked(rows: list[ExpertTopK]) -> ExpertTopK:
    """Join several distributions into one `ExpertTopK`, padded to the widest."""
    if len(rows) == 1:
        return rows[0]
    width = max(row.token_ids.shape[1] for row in rows)

    def joined(arrays: list[npt.NDArray[Any]], fill: float) -> npt.NDArray[Any]:
        if all(array.shape[1] == width for array in arrays):
            return np.concatenate(arrays)
        widened = np.full((sum(map(len, arrays)), width), fill, dtype=arrays[0].dtype)
        begin = 0
        for array in arrays:
            widened[begin : begin + len(array), : array.shape[1]] = array
            begin += len(array)
        return widened

    return ExpertTopK(
        token_ids=joined([row.token_ids for row in rows], NOTHING),
        logprobs=joined([row.logprobs for row in rows], -np.inf),
        remainders=tuple(
            replace(rest, row=number) for number, row in enumerate(rows) for rest in row.remainders
        ),
    )


@dataclass(frozen=True, kw_only=True)
class StepGroups:
    """The members of the known groups of a step, row by row and group by group.

    Entry `i` of the top K of a row is one group, numbered ``row * (K + 1) + i``. The fill of a
    short row is a group without members, and number K of each row stands for its tail, so tables
    over groups have the shape (rows, K + 1). All members of a group by f, even thousands (such as
    all tokens that begin with a blank), have the same factor. A token that g puts into a group is a
    single: it has a factor of its own. No (row, token) is twice among the members.

    Attributes
    ----------
    sizes : int64 array, shape (rows, K + 1)
        Number of each group's members by f, in order; last that of the row's singles that no known
        group holds by f.
    begins : int64 array, shape (rows, K + 1)
        Begin of each group's run in the maps' `members`.
    link_group, link_single : int64 arrays, shape (links,)
        Memberships by g.
    single_row, single_token : int64 arrays, shape (singles,)
        Sorted.
    single_group : int64 array, shape (singles,)
        The group that holds it by f; that of the row's tail for one that only a remainder holds;
        `NOTHING` for one that g alone puts into a group, or that the tail's cap holds down.
    """

    sizes: IntArray
    begins: IntArray
    link_group: IntArray
    link_single: IntArray
    single_row: IntArray
    single_token: IntArray
    single_group: IntArray

    def linked_sums(self, singles: Float64Array) -> Float64Array:
        """Sum `singles`, shape (singles,), over each group by g; returns a table."""
        sums = np.bincount(self.link_group, singles[self.link_single], minlength=self.sizes.size)
        return sums.reshape(self.sizes.shape).astype(np.float64)

    def owned_sums(self, singles: Float64Array) -> Float64Array:
        """Sum `singles`, shape (singles,), over the group that each is in by f; a table."""
        owned = self.single_group != NOTHING
        sums = np.bincount(self.single_group[owned], singles[owned], minlength=self.sizes.size)
        return sums.reshape(self.sizes.shape).astype(np.float64)

    def member_sums(self, parts: Float64Array) -> Float64Array:
        """Sum `parts`, shape (parts,), over all members of each group, by f and by g; a table.

        The last column is the tail's, with the singles that only a remainder holds.
        """
        table, singles = self.without_singles(parts)
        return table + self.linked_sums(singles) + self.owned_sums(singles)

    def with_singles(self, table: Float64Array, singles: Float64Array) -> Float64Array:
        """Return a table's rows followed by the singles, shape (parts,)."""
        return np.concatenate([table.reshape(-1), singles])

    def without_singles(self, parts: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return the table and the singles from which `with_singles` made `parts`."""
        return parts[: self.sizes.size].reshape(self.sizes.shape), parts[self.sizes.size :]


def runs(begins: IntArray, sizes: IntArray) -> IntArray:
    """Return the places of runs one after the other, shape (sum of `sizes`,)."""
    places = np.repeat(begins - np.cumsum(sizes) + sizes, sizes)
    places += np.arange(len(places))
    return places


def step_groups(maps: AlignmentMaps, top: ExpertTopK) -> StepGroups:
    """Return the groups of the expert's top K.

    Parameters
    ----------
    top : ExpertTopK
        The expert's top K for the rows of the step.
    """
    from vllm_logits_processor.alignment.group_search import find_groups

    count, width = top.token_ids.shape
    begins, sizes = np.empty((2, count, width + 1), dtype=np.int64)
    found = find_groups(
        np.ascontiguousarray(top.token_ids),
        np.asarray(maps.extra),
        np.asarray(maps.first_expert),
        np.asarray(maps.offsets),
        *_flat(top.remainders),
        scratch.array("listed", len(maps.extra), np.int32),
        scratch.array("single_of", len(maps.first_expert), np.int32),
        begins,
        sizes,
    )
    link_group, link_single, single_row, single_token, single_group = found
    return StepGroups(
        sizes=sizes,
        begins=begins,
        link_group=link_group,
        link_single=link_single,
        single_row=single_row,
        single_token=single_token,
        single_group=single_group,
    )


_NONE = np.empty(0, dtype=np.int64)


def _flat(
    remainders: Sequence[Remainder],
) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
    """Return rows, places, sizes and known of remainders, and all their tokens."""
    if not remainders:
        return _NONE, _NONE, _NONE, _NONE, _NONE
    of_each = [(rest.row, rest.place, len(rest.tokens), rest.known) for rest in remainders]
    row, place, size, known = np.array(of_each, dtype=np.int64).T.copy()
    return row, place, size, known, np.concatenate([rest.tokens for rest in remainders])
