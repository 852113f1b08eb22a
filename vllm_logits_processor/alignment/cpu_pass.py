"""The pass over the host's rows on a CPU, compiled: one loop over a row, one over its members.

Array libraries read a row once per operation and copy the members before they read them. For a row
of a megabyte and tens of thousands of members that is several times the work. vLLM itself requires
numba. Import this module where it is used, not at the top of a file: vLLM 0.32 scans all loaded
modules when a worker starts, and fails on llvmlite's.

``exp(x)`` is ``2 ** (x log2 e)`` in float32 by a polynomial, with a relative error below 1e-6 for
the logits of models. Sums are float64 over these float32 numbers. So the tail is the row's sum less
the members' sum: the addends are the same, and the remaining error is 1e-15 of the row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias, TypeVar, cast, get_type_hints

import numpy as np
import numpy.typing as npt
from numba import float32, float64, int32, int64, njit, types, void  # type: ignore[import-untyped]

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Parameters and results of the functions below, for type checkers and for the compiler.
_Logits: TypeAlias = Annotated[npt.NDArray[np.float32], types.Array(float32, 2, "C")]
_Row: TypeAlias = Annotated[npt.NDArray[np.float32], types.Array(float32, 1, "C")]
# The maps may be views of a file.
_OfMaps: TypeAlias = Annotated[npt.NDArray[np.int32], types.Array(int32, 1, "C", readonly=True)]
_Entries: TypeAlias = Annotated[npt.NDArray[np.int32], types.Array(int32, 1, "C")]
_Places: TypeAlias = Annotated[npt.NDArray[np.int64], types.Array(int64, 1, "C")]
_PlaceTable: TypeAlias = Annotated[npt.NDArray[np.int64], types.Array(int64, 2, "C")]
_TopIds: TypeAlias = Annotated[npt.NDArray[np.int64], types.Array(int64, 2, "C", readonly=True)]
_Sums: TypeAlias = Annotated[npt.NDArray[np.float64], types.Array(float64, 1, "C")]
_SumTable: TypeAlias = Annotated[npt.NDArray[np.float64], types.Array(float64, 2, "C")]
_SumTables: TypeAlias = Annotated[npt.NDArray[np.float64], types.Array(float64, 3, "C")]
_Shift: TypeAlias = Annotated[np.float32, float32]
_TwoSums: TypeAlias = Annotated[tuple[float, float], types.UniTuple(float64, 2)]

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

#: A tail with a smaller share of the row than this is summed by itself.
_SMALL = 1e-8


def _compiled(*, fast: bool) -> Callable[[_Function], _Function]:
    """Compile immediately, and cache the result on disk if a folder is writable."""
    # Order and contraction of float operations are free; NaN and infinities keep their meaning.
    options = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"} if fast else False}

    def compile_(function: _Function) -> _Function:
        # In the order of the parameters, the result last; a function without a result returns None.
        hints = get_type_hints(function, include_extras=True)
        *taken, given = (getattr(hint, "__metadata__", (void,))[0] for hint in hints.values())
        signature = given(*taken)
        try:
            return cast("_Function", njit(signature, cache=True, **options)(function))
        except RuntimeError:
            # "No locator available": neither this folder nor the user's can be written.
            return cast("_Function", njit(signature, **options)(function))

    return compile_


@_compiled(fast=True)
def _exponentials(x: _Row, y: _Row, shift: _Shift) -> _TwoSums:
    """Fill ``y = exp(x - shift)``; return the sums of y and of x y."""
    total, moment = 0.0, 0.0
    for place in range(len(x)):
        exponent = min(max((x[place] - shift) * _LOG2_E, _LOWEST), _HIGHEST)
        whole = np.floor(exponent + _HALF)
        t = exponent - whole
        fraction = _ONE + t * (_C1 + t * (_C2 + t * (_C3 + t * (_C4 + t * (_C5 + t * _C6)))))
        # The bits of a float32 whose exponent is `whole`; 0.0 for the lowest.
        power = np.int32((np.int32(whole) + 127) << 23).view(np.float32)
        y[place] = fraction * power
        total += float64(y[place])
        moment += float64(y[place]) * float64(max(x[place], _FLOOR))
    return total, moment


@_compiled(fast=True)
def _again(x: _Row, y: _Row) -> _TwoSums:
    """Return the sums of y and of x y."""
    total, moment = 0.0, 0.0
    for place in range(len(x)):
        total += float64(y[place])
        moment += float64(y[place]) * float64(max(x[place], _FLOOR))
    return total, moment


@_compiled(fast=True)
def read_rows(
    logits: _Logits,
    rows: _Places,
    members: _OfMaps,
    begins: _PlaceTable,
    sizes: _PlaceTable,
    single_row: _Places,
    single_token: _Places,
    single_group: _Places,
    scratch: _Row,
    table: _SumTables,
    of_singles: _SumTable,
    shifts: _Sums,
) -> None:
    """Read rows; fill the last three arrays.

    Parameters
    ----------
    logits : float32 array, shape (batch, vocabulary)
    rows : int64 array, shape (rows,)
    members : int32 array
        `AlignmentMaps.members`.
    begins, sizes : int64 arrays, shape (rows, K + 1)
        Each group's run of `members`; in the last column, the number of new singles of the row.
    single_row, single_token, single_group : int64 arrays, shape (singles,)
        See :class:`vllm_logits_processor.alignment.groups.StepGroups`.
    scratch : float32 array, shape (vocabulary,)
    table : float64 array, shape (2, rows, K + 1)
        Sums of ``y = exp(x - shift)`` and of x y, over each group and, last, the tail.
    of_singles : float64 array, shape (2, singles)
        y and x y of each single.
    shifts : float64 array, shape (rows,)
        What was subtracted from the row's logits, nats: 0 unless they are far from 0.
    """
    width = sizes.shape[1] - 1
    single = 0
    for place in range(len(rows)):
        x = logits[rows[place]]
        shift = _ZERO
        total, moment = _exponentials(x, scratch, shift)
        if not _LEAST < total < _MOST:
            shift = x.max()
            total, moment = _exponentials(x, scratch, shift)
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
        tail, tail_moment = total - known, moment - known_moment
        if not tail > _SMALL * total:
            for group in range(width):
                begin = begins[place, group]
                for run in range(begin, begin + sizes[place, group]):
                    scratch[members[run]] = _ZERO
            for each in range(first, single):
                if single_group[each] < 0:
                    scratch[single_token[each]] = _ZERO
            tail, tail_moment = _again(x, scratch)
        table[0, place, width], table[1, place, width] = tail, tail_moment


@_compiled(fast=False)
def add_to_members(
    logits: _Logits,
    rows: _Places,
    members: _OfMaps,
    begins: _PlaceTable,
    sizes: _PlaceTable,
    single_row: _Places,
    single_token: _Places,
    gains: _Row,
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


@_compiled(fast=False)
def lift_leaders(
    logits: _Logits,
    rows: _Places,
    members: _OfMaps,
    begins: _Places,
    sizes: _Places,
    link_begins: _Places,
    link_tokens: _Places,
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


@_compiled(fast=False)
def find_groups(
    token_ids: _TopIds,
    first_expert: _OfMaps,
    single_row: _Places,
    single_token: _Places,
    place: _Entries,
    found: _Places,
) -> None:
    """Put the number of the group that holds each single by f into `found`, or -1.

    Parameters
    ----------
    token_ids : int64 array, shape (rows, K)
        The expert's top-K; -1 where there is none.
    first_expert : int32 array, shape (host tokens,)
        `AlignmentMaps.first_expert`.
    single_row, single_token, found : int64 arrays, shape (singles,)
        The first two sorted.
    place : int32 array, shape (expert tokens,)
        Filled with -1, before and after.
    """
    width = token_ids.shape[1]
    single = 0
    for row in range(len(token_ids)):
        if single == len(single_row) or single_row[single] != row:
            continue
        for entry in range(width):
            if token_ids[row, entry] >= 0:
                place[token_ids[row, entry]] = entry
        while single < len(single_row) and single_row[single] == row:
            owner = first_expert[single_token[single]]
            entry = place[owner] if owner >= 0 else -1
            found[single] = row * (width + 1) + entry if entry >= 0 else -1
            single += 1
        for entry in range(width):
            if token_ids[row, entry] >= 0:
                place[token_ids[row, entry]] = -1
