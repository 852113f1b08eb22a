"""The groups of one decoding step: the host tokens that belong to the expert's top K."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps
from vllm_logits_processor.arrays import Float64Array, IntArray

_Float = TypeVar("_Float", np.float32, np.float64)


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
    single_at : int64 array, shape (singles,)
        Its place among the members.
    """

    sizes: IntArray
    begins: IntArray
    link_group: IntArray
    link_single: IntArray
    single_row: IntArray
    single_token: IntArray
    single_group: IntArray
    single_at: IntArray

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

    def single_sums(self, table: Float64Array) -> Float64Array:
        """Sum a table over all groups of each single; returns shape (singles,)."""
        groups = table.reshape(-1)
        by_g = np.bincount(self.link_single, groups[self.link_group], minlength=len(self.single_at))
        by_f = np.where(self.single_group != NOTHING, groups[self.single_group], 0.0)
        return np.asarray(by_g + by_f)

    def with_singles(self, table: Float64Array, singles: Float64Array) -> Float64Array:
        """Return a table's rows followed by the singles, shape (parts,)."""
        return np.concatenate([table.reshape(-1), singles])

    def without_singles(self, parts: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return the table and the singles from which `with_singles` made `parts`."""
        return parts[: self.sizes.size].reshape(self.sizes.shape), parts[self.sizes.size :]

    def with_more_singles(
        self, rows: IntArray, tokens: IntArray, maps: AlignmentMaps
    ) -> tuple[StepGroups, IntArray]:
        """Take tokens out of the tail, in no group.

        Parameters
        ----------
        rows, tokens : int64 arrays, shape (more,)
            Tail tokens that are no singles yet.

        Returns
        -------
        groups : StepGroups
        order : int64 array, shape (singles + more,)
            Of each single, its place among the old ones followed by the new ones.
        """
        row = np.concatenate([self.single_row, rows])
        token = np.concatenate([self.single_token, tokens])
        group = np.concatenate([self.single_group, np.full(len(rows), NOTHING)])
        order = np.lexsort((token, row))
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        groups = _laid_out(
            maps,
            begins=self.begins,
            sizes=self.sizes.copy(),
            link_group=self.link_group,
            link_single=place[self.link_single],
            single_row=row[order],
            single_token=token[order],
            single_group=group[order],
        )
        return groups, order

    def tokens(self, maps: AlignmentMaps) -> IntArray:
        """Return the host token of each member, shape (members,)."""
        # The runs of singles, filled in at the end, have arbitrary begins.
        members = maps.members if len(maps.members) else np.zeros(1, dtype=np.int32)
        places = runs(self.begins.reshape(-1), self.sizes.reshape(-1))
        tokens = members.take(places, mode="clip").astype(np.int64)
        tokens[self.single_at] = self.single_token
        return tokens

    @property
    def part_rows(self) -> IntArray:
        """The row of each part, shape (parts,)."""
        return np.concatenate(
            [np.repeat(np.arange(len(self.sizes)), self.sizes.shape[1]), self.single_row]
        )

    def row_sums(self, parts: Float64Array) -> Float64Array:
        """Sum `parts`, shape (parts,), over each row; returns shape (rows,)."""
        table, singles = self.without_singles(parts)
        of_singles = np.bincount(self.single_row, singles, minlength=len(table))
        return np.asarray(table.sum(axis=1) + of_singles)

    def spread(self, parts: npt.NDArray[_Float]) -> npt.NDArray[_Float]:
        """Return the value of each member: its group's, or its own for a single.

        Parameters
        ----------
        parts : array, shape (parts,)

        Returns
        -------
        array, shape (members,)
        """
        values = np.repeat(parts[: self.sizes.size], self.sizes.reshape(-1))
        values[self.single_at] = parts[self.sizes.size :]
        return values


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
    count, width = top.token_ids.shape
    known = top.token_ids != NOTHING
    experts = np.where(known, top.token_ids, 0)
    extras = maps.extra[experts]
    link_row, link_place = np.nonzero(known & (extras != NOTHING))
    link_token, by_g = extras[link_row, link_place], len(link_row)
    if top.remainders:
        lengths = [len(rest.tokens) for rest in top.remainders]
        link_row = np.append(link_row, np.repeat([rest.row for rest in top.remainders], lengths))
        link_place = np.append(
            link_place, np.repeat([rest.place for rest in top.remainders], lengths)
        )
        link_token = np.concatenate([link_token, *(rest.tokens for rest in top.remainders)])
    stride = len(maps.first_expert)
    keys, link_single = np.unique(link_row * stride + link_token, return_inverse=True)
    single_row, single_token = keys // stride, keys % stride
    single_group = _groups_by_f(maps, top.token_ids, single_row, single_token)

    new = single_group == NOTHING
    if top.remainders:
        leaving = np.arange(len(link_single)) < by_g
        begins = by_g + np.cumsum([0, *lengths[:-1]])
        for begin, rest in zip(begins, top.remainders, strict=True):
            leaving[begin : begin + rest.known] = True
        in_tail = new & (np.bincount(link_single[leaving], minlength=len(keys)) == 0)
        single_group[in_tail] = single_row[in_tail] * (width + 1) + width
    begins = np.zeros((count, width + 1), dtype=np.int64)
    begins[:, :width] = maps.offsets[experts]
    sizes = np.empty_like(begins)
    sizes[:, :width] = np.where(known, maps.offsets[experts + 1] - begins[:, :width], 0)
    return _laid_out(
        maps,
        begins=begins,
        sizes=sizes,
        link_group=link_row * (width + 1) + link_place,
        link_single=link_single,
        single_row=single_row,
        single_token=single_token,
        single_group=single_group,
    )


def _laid_out(
    maps: AlignmentMaps,
    *,
    begins: IntArray,
    sizes: IntArray,
    link_group: IntArray,
    link_single: IntArray,
    single_row: IntArray,
    single_token: IntArray,
    single_group: IntArray,
) -> StepGroups:
    """Give every single its place among the members; fills the last column of `sizes`."""
    count, columns = sizes.shape
    new = (single_group == NOTHING) | (single_group % columns == columns - 1)
    sizes[:, -1] = np.bincount(single_row[new], minlength=count)
    starts = (np.cumsum(sizes) - sizes.reshape(-1)).astype(np.int64)

    owner, row = single_group[~new], single_row[new]
    single_at = np.empty(len(single_row), dtype=np.int64)
    single_at[~new] = starts[owner] + maps.place[single_token[~new]]
    # The new ones of a row are sorted, and follow its groups.
    behind = starts[row * columns + columns - 1] - np.searchsorted(row, row)
    single_at[new] = behind + np.arange(len(row))
    return StepGroups(
        sizes=sizes,
        begins=begins,
        link_group=link_group,
        link_single=link_single,
        single_row=single_row,
        single_token=single_token,
        single_group=single_group,
        single_at=single_at,
    )


def _groups_by_f(
    maps: AlignmentMaps, token_ids: IntArray, rows: IntArray, tokens: IntArray
) -> IntArray:
    """Return the group that holds each (row, host token) by f."""
    from vllm_logits_processor.alignment.cpu_pass import find_groups

    found = np.empty(len(tokens), dtype=np.int64)
    place = np.full(len(maps.extra), NOTHING, dtype=np.int32)
    find_groups(
        np.ascontiguousarray(token_ids), np.asarray(maps.first_expert), rows, tokens, place, found
    )
    return found
