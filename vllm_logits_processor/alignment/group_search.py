"""The groups of a step, its singles and the caps of its tails, compiled.

One pass over the expert's top K finds them, and memory that is held ready tells what a token is.
Import this module where it is used, not at the top of a file: see
:mod:`vllm_logits_processor.alignment.compiled`.
"""

from __future__ import annotations

import numpy as np

from vllm_logits_processor.alignment.compiled import (
    Count,
    Entries,
    FivePlaces,
    Flags,
    Number,
    OffsetsOfMaps,
    OfMaps,
    Places,
    PlaceTable,
    Sums,
    SumTable,
    TopIds,
    TopValues,
    compiled,
)


@compiled(fast=False)
def cap_tails(
    token_ids: TopIds,
    logprobs: TopValues,
    masses: TopValues,
    known: Sums,
    rest_row: Places,
    experts: Count,
    least_missing: Number,
    caps: Sums,
) -> None:
    """Fill `caps`: see :func:`vllm_logits_processor.alignment.tail.tail_caps`.

    Parameters
    ----------
    token_ids, logprobs, masses : arrays, shape (rows, K)
        The expert's top K, and the probabilities.
    known : float64 array, shape (rows,)
        Their sums.
    rest_row : int64 array
        The rows with remainders.
    experts : int
        Tokens of the expert.
    least_missing : float
        Missing mass below which there is no cap.
    """
    for row in range(len(caps)):
        least, mass = np.inf, np.inf
        for place in range(token_ids.shape[1]):
            logprob = logprobs[row, place]
            if token_ids[row, place] >= 0 and np.isfinite(logprob) and logprob < least:
                least, mass = logprob, masses[row, place]
        missing = 1.0 - known[row]
        none = np.isinf(mass) or missing < least_missing or mass * experts < missing
        caps[row] = np.inf if none else mass / missing
    for each in range(len(rest_row)):
        caps[rest_row[each]] = np.inf


@compiled(fast=False)
def _note(token: Count, single_of: Entries, single_token: Places, singles: Count) -> Count:
    """Note a single, unless the row has it already; return how many there are."""
    if single_of[token] < 0:
        single_of[token], single_token[singles] = 0, token
        singles += 1
    return singles


@compiled(fast=False)
def _merge(values: Places, begin: Count, middle: Count, end: Count) -> None:
    """Sort what is from `middle` on, which mostly is sorted, and merge it with what is before."""
    right = values[middle:end].copy()
    for at in range(1, len(right)):
        if right[at] < right[at - 1]:
            right.sort()
            break
    left, last = middle - 1, len(right) - 1
    for at in range(end - 1, begin - 1, -1):
        if last < 0:
            break
        if left >= begin and values[left] > right[last]:
            values[at] = values[left]
            left -= 1
        else:
            values[at] = right[last]
            last -= 1


@compiled(fast=False)
def _link(
    link: Count,
    link_token: Places,
    leaves: Flags,
    single_of: Entries,
    link_single: Places,
    single_group: Places,
    columns: Count,
) -> None:
    """Link a single to the group of `link`, which may take it out of the tail."""
    single = link_single[link] = single_of[link_token[link]]
    if leaves[link] and single_group[single] % columns == columns - 1:
        single_group[single] = -1


@compiled(fast=False)
def find_groups(
    token_ids: TopIds,
    extra: OfMaps,
    first_expert: OfMaps,
    offsets: OffsetsOfMaps,
    rest_row: Places,
    rest_place: Places,
    rest_size: Places,
    rest_known: Places,
    rest_tokens: Places,
    listed: Entries,
    single_of: Entries,
    begins: PlaceTable,
    sizes: PlaceTable,
) -> FivePlaces:
    """Fill `begins` and `sizes`; return links and singles, as `StepGroups` has them.

    Parameters
    ----------
    token_ids : int64 array, shape (rows, K)
        The expert's top K; -1 where there is none.
    extra, first_expert, offsets : arrays
        Those of `AlignmentMaps`.
    rest_row, rest_place, rest_size, rest_known : int64 arrays, shape (remainders,)
        Of each remainder: where its mass is, how many tokens it has, and how many of these are
        known to begin no other token.
    rest_tokens : int64 array
        The remainders' tokens, one after the other.
    listed, single_of : int32 arrays, shapes (expert tokens,) and (host tokens,)
        Filled with -1, before and after.
    begins, sizes : int64 arrays, shape (rows, K + 1)

    Returns
    -------
    link_group, link_single, single_row, single_token, single_group
    """
    count, width = token_ids.shape
    columns, by_g = width + 1, 0
    for row in range(count):
        for place in range(width):
            token = token_ids[row, place]
            begins[row, place], sizes[row, place] = 0, 0
            if token >= 0:
                begins[row, place] = offsets[token]
                sizes[row, place] = offsets[token + 1] - offsets[token]
                by_g += extra[token] >= 0
        begins[row, width], sizes[row, width] = 0, 0
    links = by_g + len(rest_tokens)
    link_group, link_single = np.empty(links, np.int64), np.empty(links, np.int64)
    link_token, leaves = np.empty(links, np.int64), np.zeros(links, np.bool_)
    single_row, single_token = np.empty(links, np.int64), np.empty(links, np.int64)
    single_group = np.empty(links, np.int64)
    # Links of one row: those by g, then from where on those of each remainder are.
    first_by_g, end_by_g, singles = 0, 0, 0
    for row in range(count):
        for place in range(width):
            token = token_ids[row, place]
            if token >= 0:
                listed[token] = place
                if extra[token] >= 0:
                    link_group[end_by_g] = row * columns + place
                    link_token[end_by_g] = extra[token]
                    leaves[end_by_g] = True
                    end_by_g += 1
        begin = singles
        for link in range(first_by_g, end_by_g):
            singles = _note(link_token[link], single_of, single_token, singles)
        single_token[begin:singles].sort()
        link = by_g
        for each in range(len(rest_row)):
            if rest_row[each] == row:
                middle = singles
                for member in range(rest_size[each]):
                    link_group[link + member] = row * columns + rest_place[each]
                    link_token[link + member] = rest_tokens[link + member - by_g]
                    leaves[link + member] = member < rest_known[each]
                    singles = _note(link_token[link + member], single_of, single_token, singles)
                _merge(single_token, begin, middle, singles)
            link += rest_size[each]
        for single in range(begin, singles):
            token = single_token[single]
            single_row[single], single_of[token] = row, single
            place = listed[first_expert[token]] if first_expert[token] >= 0 else -1
            # Until some link says otherwise, the tail keeps what no group holds by f.
            single_group[single] = row * columns + (place if place >= 0 else width)
            sizes[row, width] += place < 0
        for link in range(first_by_g, end_by_g):
            _link(link, link_token, leaves, single_of, link_single, single_group, columns)
        link = by_g
        for each in range(len(rest_row)):
            if rest_row[each] == row:
                for member in range(link, link + rest_size[each]):
                    _link(member, link_token, leaves, single_of, link_single, single_group, columns)
            link += rest_size[each]
        for single in range(begin, singles):
            single_of[single_token[single]] = -1
        for place in range(width):
            if token_ids[row, place] >= 0:
                listed[token_ids[row, place]] = -1
        first_by_g = end_by_g
    single_row, single_token = single_row[:singles].copy(), single_token[:singles].copy()
    single_group = single_group[:singles].copy()
    return link_group, link_single, single_row, single_token, single_group


@compiled(fast=False)
def with_more_singles(
    single_row: Places,
    single_token: Places,
    single_group: Places,
    rows: Places,
    tokens: Places,
    singles: SumTable,
    of_more: SumTable,
    merged: SumTable,
) -> FivePlaces:
    """Merge tokens of the tail with the singles, both sorted; `merged` receives their sums.

    Parameters
    ----------
    rows, tokens : int64 arrays, shape (more,)
        Tokens in no group.
    singles, of_more, merged : float64 arrays, shapes (2, singles), (2, more) and (2, both)

    Returns
    -------
    single_row, single_token, single_group
    place : int64 array, shape (singles,)
        Where the old singles are among all.
    added : int64 array, shape (more,)
        Where the new ones are.
    """
    old, more = len(single_row), len(rows)
    row, token = np.empty(old + more, np.int64), np.empty(old + more, np.int64)
    group, place = np.empty(old + more, np.int64), np.empty(old, np.int64)
    added = np.empty(more, np.int64)
    one, other = 0, 0
    for at in range(old + more):
        if other == more or (
            one < old
            and (
                single_row[one] < rows[other]
                or (single_row[one] == rows[other] and single_token[one] < tokens[other])
            )
        ):
            row[at], token[at], group[at] = single_row[one], single_token[one], single_group[one]
            merged[0, at], merged[1, at] = singles[0, one], singles[1, one]
            place[one] = at
            one += 1
        else:
            row[at], token[at], group[at] = rows[other], tokens[other], -1
            merged[0, at], merged[1, at] = of_more[0, other], of_more[1, other]
            added[other] = at
            other += 1
    return row, token, group, place, added
