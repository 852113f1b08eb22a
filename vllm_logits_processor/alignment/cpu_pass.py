"""The pass over the host's rows on a CPU, compiled: one loop over a row, one over its members.

Array libraries read a row once per operation and copy the members before they read them. For a row
of a megabyte and tens of thousands of members that is several times the work. Import this module
where it is used, not at the top of a file: see :mod:`vllm_logits_processor.alignment.compiled`.

``exp(x)`` is ``2 ** (x log2 e)`` in float32 by a polynomial, with a relative error below 1e-6 for
the logits of models. Sums are float64 over these float32 numbers. So the tail is the row's sum less
the members' sum: the addends are the same, and the remaining error is 1e-15 of the row.
"""

from __future__ import annotations

import numpy as np
from numba import float64, int32  # type: ignore[import-untyped]

from vllm_logits_processor.alignment.compiled import (
    Count,
    Entries,
    Logits,
    Number,
    OfMaps,
    Places,
    PlaceTable,
    Row,
    Shift,
    Sums,
    SumTable,
    SumTables,
    TopIds,
    TwoSums,
    compiled,
)

_F = np.float32
_LOG2_E = _F(np.log2(np.e))

# Coefficients of 2**t on [-1/2, 1/2]; the terms of its Taylor series.
_C1, _C2, _C3, _C4, _C5, _C6 = (
    _F(np.log(2.0) ** power / float(np.prod(np.arange(1, power + 1)))) for power in range(1, 7)
)

_ONE, _HALF, _ZERO = _F(1.0), _F(0.5), _F(0.0)

#: Exponents of the smallest and the largest power of two; the former stands for zero.
_LOWEST, _HIGHEST = _F(-127.0), _F(127.0)

#: Replaces -inf, to avoid 0 * -inf.
_FLOOR = _F(-1e30)

#: A row whose sum of exp is outside is read again, relative to its maximum.
_LEAST, _MOST = 2.0**-60, 2.0**60

#: A tail with a smaller share of the row than this is summed by itself, and so is what the cap
#: leaves of a tail.
_SMALL, _SMALL_REST = 1e-8, 1e-4

#: Neighbouring tokens of which only the largest is looked at, mostly.
BLOCK = 512

#: The search below the cap goes down to one part in so many: sharing out raises what is below.
_SLACK = 2.0


@compiled(fast=True)
def _exponentials(x: Row, y: Row, peaks: Entries, shift: Shift) -> TwoSums:
    """Fill ``y = exp(x - shift)``; return the sums of y and of x y.

    `peaks` receives the bits of the largest y of each block: those of floats that are not negative
    have the order of the floats, and their maximum is vectorised.
    """
    total, moment = 0.0, 0.0
    for block in range(len(peaks)):
        # Slices, as an index that may be negative is not vectorised.
        x_here = x[block * BLOCK : (block + 1) * BLOCK]
        y_here = y[block * BLOCK : (block + 1) * BLOCK]
        most = int32(0)
        for place in range(len(x_here)):
            exponent = min(max((x_here[place] - shift) * _LOG2_E, _LOWEST), _HIGHEST)
            whole = np.floor(exponent + _HALF)
            t = exponent - whole
            fraction = _ONE + t * (_C1 + t * (_C2 + t * (_C3 + t * (_C4 + t * (_C5 + t * _C6)))))
            # The bits of a float32 whose exponent is `whole`; 0.0 for the lowest.
            power = np.int32((np.int32(whole) + 127) << 23).view(np.float32)
            y_here[place] = fraction * power
            most = max(most, np.float32(fraction * power).view(np.int32))
        # A loop of its own: with float64 in it, the other one would be half as wide.
        for place in range(len(x_here)):
            total += float64(y_here[place])
            moment += float64(y_here[place]) * float64(max(x_here[place], _FLOOR))
        peaks[block] = most
    return total, moment


@compiled(fast=True)
def _again(x: Row, y: Row) -> TwoSums:
    """Return the sums of y and of x y."""
    total, moment = 0.0, 0.0
    for place in range(len(x)):
        total += float64(y[place])
        moment += float64(y[place]) * float64(max(x[place], _FLOOR))
    return total, moment


@compiled(fast=True)
def _forget(
    y: Row,
    members: OfMaps,
    begins: Places,
    sizes: Places,
    single_token: Places,
    single_group: Places,
) -> None:
    """Set y of all known tokens of a row to 0."""
    for group in range(len(begins) - 1):
        for run in range(begins[group], begins[group] + sizes[group]):
            y[members[run]] = _ZERO
    for each in range(len(single_token)):
        if single_group[each] < 0:
            y[single_token[each]] = _ZERO


@compiled(fast=True)
def _hold_down(
    y: Row,
    peaks: Entries,
    first_expert: OfMaps,
    listed: Entries,
    tail: Number,
    cap: Number,
    chosen: Places,
) -> Count:
    """List the tail tokens that the cap holds down, ascending; return their number.

    Those above the cap get it; the others share what is left, which may lift some of them above.

    Parameters
    ----------
    y : float32 array, shape (vocabulary,)
        The host's masses, up to a factor; 0 for known tokens that are in no group by f.
    peaks : int32 array, shape (blocks,)
        See `_exponentials`.
    listed : int32 array, shape (expert tokens,)
        Not negative for the expert tokens that are listed: their groups by f are no tail.
    tail : float
        The sum of y over the tail.
    cap : float
        The most that a token may get, as a share of the tail's mass.
    chosen : int64 array, shape (vocabulary,)
        Receives the tokens.
    """
    count, gathered, rest, share, floor = 0, 0, tail, 1.0, np.inf
    while True:
        bound = cap * rest / share
        if bound < floor:
            floor = bound / _SLACK
            gathered = 0
            least = np.float32(floor).view(np.int32)
            for block in range(len(peaks)):
                if peaks[block] < least:
                    continue
                for token in range(block * BLOCK, min((block + 1) * BLOCK, len(y))):
                    if y[token] > floor:
                        owner = first_expert[token] if token < len(first_expert) else int32(-1)
                        if owner < 0 or listed[owner] < 0:
                            chosen[gathered] = token
                            gathered += 1
        above, held = 0, 0.0
        for each in range(gathered):
            if y[chosen[each]] > bound:
                above += 1
                held += float64(y[chosen[each]])
        if above == count:
            break
        count, rest, share = above, tail - held, 1.0 - above * cap
        if rest < _SMALL_REST * tail:
            # The difference of two nearly equal sums says little.
            rest = 0.0
            for token in range(len(y)):
                owner = first_expert[token] if token < len(first_expert) else int32(-1)
                if not y[token] > bound and (owner < 0 or listed[owner] < 0):
                    rest += float64(y[token])
        if rest <= 0 or share <= 0:
            break
    above = 0
    for each in range(gathered):
        if y[chosen[each]] > bound:
            chosen[above] = chosen[each]
            above += 1
    return above


@compiled(fast=True)
def read_rows(
    logits: Logits,
    rows: Places,
    members: OfMaps,
    first_expert: OfMaps,
    token_ids: TopIds,
    caps: Sums,
    begins: PlaceTable,
    sizes: PlaceTable,
    single_row: Places,
    single_token: Places,
    single_group: Places,
    scratch: Row,
    peaks: Entries,
    listed: Entries,
    chosen: Places,
    table: SumTables,
    of_singles: SumTable,
    shifts: Sums,
    held_row: Places,
    held_token: Places,
    of_held: SumTable,
) -> Count:
    """Read rows; fill the last six arrays, and return how many tokens the caps hold down.

    Parameters
    ----------
    logits : float32 array, shape (batch, vocabulary)
    rows : int64 array, shape (rows,)
    members, first_expert : int32 arrays
        Those of `AlignmentMaps`.
    token_ids : int64 array, shape (rows, K)
        The expert's top-K; -1 where there is none.
    caps : float64 array, shape (rows,)
        The most that a tail token may get, as a share of the tail's mass; from 1 on there is none.
    begins, sizes : int64 arrays, shape (rows, K + 1)
        Each group's run of `members`; in the last column, the number of new singles of the row.
    single_row, single_token, single_group : int64 arrays, shape (singles,)
        See :class:`vllm_logits_processor.alignment.groups.StepGroups`.
    scratch : float32 array, shape (vocabulary,)
    peaks : int32 array, shape (blocks,)
    listed : int32 array, shape (expert tokens,)
        Filled with -1, before and after.
    chosen : int64 array, shape (vocabulary,)
    table : float64 array, shape (2, rows, K + 1)
        Sums of ``y = exp(x - shift)`` and of x y, over each group and, last, the tail without the
        tokens that are held down.
    of_singles : float64 array, shape (2, singles)
        y and x y of each single.
    shifts : float64 array, shape (rows,)
        What was subtracted from the row's logits, nats: 0 unless they are far from 0.
    held_row, held_token : int64 arrays, shape (room,)
        The tokens that are held down, row by row and ascending; those without room are counted.
    of_held : float64 array, shape (2, room)
        y and x y of these.
    """
    width = sizes.shape[1] - 1
    single, found = 0, 0
    for place in range(len(rows)):
        x = logits[rows[place]]
        shift = _ZERO
        total, moment = _exponentials(x, scratch, peaks, shift)
        if not _LEAST < total < _MOST:
            shift = x.max()
            total, moment = _exponentials(x, scratch, peaks, shift)
        shifts[place] = shift
        known, known_moment = 0.0, 0.0
        for group in range(width):
            group_mass, group_moment = 0.0, 0.0
            begin = begins[place, group]
            for run in range(begin, begin + sizes[place, group]):
                token = members[run]
                y = float64(scratch[token])
                group_mass += y
                group_moment += y * float64(max(x[token], _FLOOR))
            table[0, place, group], table[1, place, group] = group_mass, group_moment
            known += group_mass
            known_moment += group_moment
        first = single
        while single < len(single_row) and single_row[single] == place:
            token = single_token[single]
            y = float64(scratch[token])
            of_singles[0, single] = y
            of_singles[1, single] = y * float64(max(x[token], _FLOOR))
            if single_group[single] < 0:
                known += y
                known_moment += of_singles[1, single]
            single += 1
        tokens, groups = single_token[first:single], single_group[first:single]
        tail, tail_moment = total - known, moment - known_moment
        if not tail > _SMALL * total:
            _forget(scratch, members, begins[place], sizes[place], tokens, groups)
            tail, tail_moment = _again(x, scratch)
        if caps[place] < 1.0 and tail > 0:
            for each in range(len(tokens)):
                if groups[each] < 0:
                    scratch[tokens[each]] = _ZERO
            for entry in range(width):
                if token_ids[place, entry] >= 0:
                    listed[token_ids[place, entry]] = entry
            count = _hold_down(scratch, peaks, first_expert, listed, tail, caps[place], chosen)
            for entry in range(width):
                if token_ids[place, entry] >= 0:
                    listed[token_ids[place, entry]] = -1
            held, held_moment = 0.0, 0.0
            for each in range(count):
                token = chosen[each]
                y = float64(scratch[token])
                y_x = y * float64(max(x[token], _FLOOR))
                held += y
                held_moment += y_x
                if found < len(held_row):
                    held_row[found], held_token[found] = place, token
                    of_held[0, found], of_held[1, found] = y, y_x
                found += 1
            if tail - held < _SMALL_REST * tail:
                _forget(scratch, members, begins[place], sizes[place], tokens, groups)
                for each in range(count):
                    scratch[chosen[each]] = _ZERO
                tail, tail_moment = _again(x, scratch)
            else:
                tail, tail_moment = tail - held, tail_moment - held_moment
        table[0, place, width], table[1, place, width] = tail, tail_moment
    return found


@compiled(fast=False)
def add_to_members(
    logits: Logits,
    rows: Places,
    members: OfMaps,
    begins: PlaceTable,
    sizes: PlaceTable,
    single_row: Places,
    single_token: Places,
    gains: Row,
) -> None:
    """Add the gain of each group to its members' logits, and of each single to its own, in place.

    Parameters
    ----------
    logits, rows, members, begins, sizes, single_row, single_token
        See `read_rows`.
    gains : float32 array, shape (parts,)
        The gains of groups and tails, row by row, then of the singles. That of a tail is not added.
    """
    width = sizes.shape[1] - 1
    of_singles = rows.size * (width + 1)
    single = 0
    for place in range(len(rows)):
        x = logits[rows[place]]
        first = single
        while single < len(single_row) and single_row[single] == place:
            single += 1
        # Singles may be in a run as well: their new values are computed from the old ones.
        alone = np.empty(single - first, np.float32)
        for each in range(first, single):
            alone[each - first] = x[single_token[each]] + gains[of_singles + each]
        for group in range(width):
            gain = gains[place * (width + 1) + group]
            begin = begins[place, group]
            for run in range(begin, begin + sizes[place, group]):
                x[members[run]] += gain
        for each in range(first, single):
            x[single_token[each]] = alone[each - first]


@compiled(fast=False)
def lift_leaders(
    logits: Logits,
    rows: Places,
    members: OfMaps,
    begins: Places,
    sizes: Places,
    link_begins: Places,
    link_tokens: Places,
) -> None:
    """Give the likeliest token of each leading group the group's whole logit, in place.

    Parameters
    ----------
    logits : float32 array, shape (batch, vocabulary)
    rows : int64 array, shape (leaders,)
        The row of each leading group.
    members : int32 array
        `AlignmentMaps.members`.
    begins, sizes : int64 arrays, shape (leaders,)
        Each group's run of `members`.
    link_begins : int64 array, shape (leaders + 1,)
        Begin of each group's part of `link_tokens`, which are its members by g.
    """
    for leader in range(len(rows)):
        x = logits[rows[leader]]
        run, link = begins[leader], link_begins[leader]
        size = sizes[leader]
        count = size + link_begins[leader + 1] - link
        best, most = -1, -np.inf
        for each in range(count):
            token = members[run + each] if each < size else link_tokens[link + each - size]
            if x[token] > most or (x[token] == most and 0 <= token < best):
                best, most = token, float64(x[token])
        if best < 0:
            continue
        total = 0.0
        for each in range(count):
            token = members[run + each] if each < size else link_tokens[link + each - size]
            total += np.exp(float64(x[token]) - most)
        x[best] = most + np.log(total)
