"""The arithmetic over the parts of a step, compiled: its arrays are many, and short.

An array library takes a microsecond or more for an operation, however short its arrays are; a step
of one row would need a hundred. Import this module where it is used, not at the top of a file: see
:mod:`vllm_logits_processor.alignment.compiled`.

Sums over the groups of a row are pairwise, which loses less than one running sum, and in the order
of NumPy's own. Parts are laid out as in :class:`vllm_logits_processor.alignment.groups.StepGroups`.
"""

from __future__ import annotations

import numpy as np

from vllm_logits_processor.alignment.compiled import (
    Count,
    Flags,
    Number,
    Places,
    Row,
    Sums,
    SumTable,
    TopValues,
    compiled,
)

#: Longer sums are split into two.
_BLOCK = 128
_TINY = np.finfo(np.float64).tiny


@compiled(fast=False)
def pairwise_sum(values: Sums, begin: Count, count: Count) -> Number:
    """Return the sum of `count` values from `begin` on."""
    if count < 8:
        total = 0.0
        for at in range(begin, begin + count):
            total += values[at]
        return total
    if count > _BLOCK:
        half = count // 2
        half -= half % 8
        return pairwise_sum(values, begin, half) + pairwise_sum(values, begin + half, count - half)
    a, b, c, d = values[begin], values[begin + 1], values[begin + 2], values[begin + 3]
    e, f, g, h = values[begin + 4], values[begin + 5], values[begin + 6], values[begin + 7]
    whole = count - count % 8
    for at in range(begin + 8, begin + whole, 8):
        a += values[at]
        b += values[at + 1]
        c += values[at + 2]
        d += values[at + 3]
        e += values[at + 4]
        f += values[at + 5]
        g += values[at + 6]
        h += values[at + 7]
    total = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for at in range(begin + whole, begin + count):
        total += values[at]
    return float(total)


@compiled(fast=False)
def add_up(
    table: Sums,
    singles: SumTable,
    columns: Count,
    single_row: Places,
    single_group: Places,
    held: Flags,
    partition: Sums,
) -> None:
    """Fill `partition` with the sum of y over each row.

    Parameters
    ----------
    table : float64 array, shape (2 * rows * (K + 1),)
        y, then x y, of each group and tail.
    singles : float64 array, shape (2, singles)
    columns : int
        K + 1.
    held : bool array, shape (singles,)
        Which of the singles the caps hold down.
    """
    rows = len(partition)
    in_none, of_held = np.zeros(rows), np.zeros(rows)
    for single in range(len(single_row)):
        if held[single]:
            of_held[single_row[single]] += singles[0, single]
        elif single_group[single] < 0:
            # Those that a group holds by f are in the group's sum.
            in_none[single_row[single]] += singles[0, single]
    for row in range(rows):
        of_groups = pairwise_sum(table, row * columns, columns)
        partition[row] = (of_groups + in_none[row]) + of_held[row]


@compiled(fast=False)
def normalise(
    table: Sums,
    singles: SumTable,
    columns: Count,
    single_row: Places,
    partition: Sums,
    offset: Sums,
    mass: Sums,
    plogp: Sums,
) -> None:
    """Turn sums of y and x y into those of p and p ln p, shape (parts,).

    Parameters
    ----------
    table, singles, columns
        See `add_up`.
    partition, offset : float64 arrays, shape (rows,)
        p is y over the former, and ln p is x less the latter.
    """
    cells = len(partition) * columns
    for part in range(len(mass)):
        if part < cells:
            row, y, x_y = part // columns, table[part], table[cells + part]
        else:
            single = part - cells
            row, y, x_y = single_row[single], singles[0, single], singles[1, single]
        mass[part] = y / partition[row]
        plogp[part] = x_y / partition[row] - mass[part] * offset[row]


@compiled(fast=False)
def share_out(
    mass: Sums,
    plogp: Sums,
    masses: TopValues,
    known: Sums,
    caps: Sums,
    link_group: Places,
    link_single: Places,
    single_row: Places,
    single_group: Places,
    held: Flags,
    factors: Sums,
    to_log: Sums,
    feasible: Flags,
) -> None:
    """Share out the expert's mass: fill the last three arrays, and part `mass` and `plogp`.

    Mass on tokens that the host cannot produce goes to the others, in proportion. A group's sums
    include the singles that it holds by f; afterwards these count once, by their own factor.

    Parameters
    ----------
    mass, plogp : float64 arrays, shape (parts,)
        The host's, of all members of each part.
    masses, known : float64 arrays, shapes (rows, K) and (rows,)
        The expert's, and their sums.
    caps : float64 array, shape (rows,)
        The share of the tail that each token gets that is held down.
    held : bool array, shape (singles,)
        Which of the singles these are.
    factors : float64 array, shape (parts,)
        The expert's mass over the host's; 1 in rows where nothing is feasible.
    to_log : float64 array, shape (2 * parts,)
        The factors, then their means with 1; none is 0.
    feasible : bool array, shape (rows,)
    """
    rows, width = masses.shape
    columns, singles = width + 1, len(single_row)
    cells = rows * columns
    linked, owned, owned_plogp = np.zeros(cells), np.zeros(cells), np.zeros(cells)
    for link in range(len(link_group)):
        linked[link_group[link]] += mass[cells + link_single[link]]
    held_count, held_mass = np.zeros(rows), np.zeros(rows)
    for single in range(singles):
        group = single_group[single]
        if group >= 0:
            owned[group] += mass[cells + single]
            owned_plogp[group] += plogp[cells + single]
        if held[single]:
            held_count[single_row[single]] += 1.0
            held_mass[single_row[single]] += mass[cells + single]
    expert, held_share = np.empty(columns), np.empty(rows)
    for row in range(rows):
        missing = 1.0 - known[row]
        if missing < 0.0:
            missing = 0.0
        each = (caps[row] if held_count[row] > 0 else 0.0) * missing
        begin, some = row * columns, False
        for place in range(columns):
            if place < width:
                expert[place] = masses[row, place] / max(known[row], 1.0)
            else:
                expert[place] = max(missing - held_count[row] * each, 0.0)
            if mass[begin + place] + linked[begin + place] <= 0:
                expert[place] = 0.0
            some = some or (place < width and expert[place] > 0)
        # Nothing that is listed is feasible: no token is held down, all have the tail's factor.
        alone = held_count[row] > 0 and not some
        if alone:
            expert[width] = 1.0
        total = pairwise_sum(expert, 0, columns)
        if not alone:
            total += held_count[row] * each
        feasible[row] = total > 0
        held_share[row] = np.nan if alone else each / (total if feasible[row] else 1.0)
        tail = mass[begin + width] + linked[begin + width] + held_mass[row]
        for place in range(columns):
            host = tail if alone else mass[begin + place] + linked[begin + place]
            factor = expert[place] / (host * total) if expert[place] > 0 else 0.0
            factors[begin + place] = factor if feasible[row] else 1.0
    by_g = np.zeros(singles)
    for link in range(len(link_group)):
        by_g[link_single[link]] += factors[link_group[link]]
    for single in range(singles):
        row, group, part = single_row[single], single_group[single], cells + single
        if not feasible[row]:
            factors[part] = 1.0
        elif not held[single]:
            factors[part] = by_g[single] + (factors[group] if group >= 0 else 0.0)
        elif np.isnan(held_share[row]):
            factors[part] = factors[row * columns + width]
        else:
            factors[part] = held_share[row] / mass[part]
    for cell in range(cells):
        mass[cell] = max(mass[cell] - owned[cell], 0.0)
        plogp[cell] = min(plogp[cell] - owned_plogp[cell], 0.0)
    for part in range(len(factors)):
        to_log[part] = max(factors[part], _TINY)
        to_log[len(factors) + part] = max((1.0 + factors[part]) / 2, _TINY)


@compiled(fast=False)
def signals(
    mass: Sums,
    plogp: Sums,
    factors: Sums,
    logs: Sums,
    single_row: Places,
    columns: Count,
    host_entropy: Sums,
    expert_entropy: Sums,
    disagreement: Sums,
) -> None:
    """Fill the last three arrays, shape (rows,): see `Aligned`.

    Parameters
    ----------
    mass, plogp, factors : float64 arrays, shape (parts,)
        Of each part without the singles that are parts of their own.
    logs : float64 array, shape (2 * parts,)
        The logarithms of what `share_out` has left to be taken.
    columns : int
        K + 1.
    """
    rows, parts = len(host_entropy), len(factors)
    expert, divergence = np.empty(parts), np.empty(parts)
    for part in range(parts):
        # m ln m, and the same of the mean of m and 1.
        scaled = factors[part] * logs[part]
        middle = (1.0 + factors[part]) / 2 * logs[parts + part]
        expert[part] = factors[part] * plogp[part] + scaled * mass[part]
        divergence[part] = (scaled / 2 - middle) * mass[part]
    of_singles = np.zeros((3, rows))
    for single in range(len(single_row)):
        row, part = single_row[single], rows * columns + single
        of_singles[0, row] += plogp[part]
        of_singles[1, row] += expert[part]
        of_singles[2, row] += divergence[part]
    for row in range(rows):
        begin = row * columns
        host_entropy[row] = -(pairwise_sum(plogp, begin, columns) + of_singles[0, row])
        expert_entropy[row] = -(pairwise_sum(expert, begin, columns) + of_singles[1, row])
        disagreement[row] = pairwise_sum(divergence, begin, columns) + of_singles[2, row]


@compiled(fast=False)
def mix(values: Sums, host: Sums, expert: Sums, single_row: Places, columns: Count) -> None:
    """Turn each value v of a part into ``host + expert v``, with the weights of its row, in place.

    Parameters
    ----------
    values : float64 array, shape (parts,)
    host, expert : float64 arrays, shape (rows,)
    columns : int
        K + 1.
    """
    cells = len(host) * columns
    for part in range(len(values)):
        row = part // columns if part < cells else single_row[part - cells]
        values[part] = host[row] + expert[row] * values[part]


@compiled(fast=False)
def take_from(
    logs: Sums, power: Number, least: Number, single_row: Places, columns: Count, gains: Row
) -> None:
    """Fill `gains` with ``log / power``, less that of the row's tail, which is `least` at least.

    Parameters
    ----------
    logs : float64 array, shape (parts,)
    gains : float32 array, shape (parts,)
    columns : int
        K + 1.
    """
    rows = (len(logs) - len(single_row)) // columns
    tails = np.empty(rows)
    for row in range(rows):
        tails[row] = max(logs[(row + 1) * columns - 1] / power, least)
    for part in range(len(logs)):
        row = part // columns if part < rows * columns else single_row[part - rows * columns]
        gains[part] = np.float32(logs[part] / power - tails[row])
