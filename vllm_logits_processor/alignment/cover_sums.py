"""The arithmetic of covers, compiled: the weights of all nodes of a step, and what crosses the end.

Import this module where it is used, not at the top of a file: see
:mod:`vllm_logits_processor.alignment.compiled`.

Nodes are the rows of `OpenText.table`, text by text. ``first`` has the place of each text's first
node and at last the number of nodes, and ``row_of`` has the distribution that was received at a
node, or -1.
"""

from __future__ import annotations

import numpy as np

from vllm_logits_processor.alignment.compiled import (
    Count,
    Flags,
    Number,
    OfMaps,
    Places,
    PlaceTable,
    Sums,
    SumTable,
    TopIds,
    compiled,
)
from vllm_logits_processor.alignment.open_text import (
    ASKABLE,
    BEGIN,
    BEHIND,
    EXTENDS,
    FIRST,
    LEAST,
    MOST,
    MOST_TRIED,
    TO_END,
    TOKEN,
    VALUE,
)
from vllm_logits_processor.alignment.part_sums import pairwise_sum

#: A complete row may sum to this much less than one.
_ROUNDING = 1e-12


@compiled(fast=False)
def weigh_nodes(
    nodes: PlaceTable,
    first: Places,
    row_of: Places,
    ids: TopIds,
    masses: SumTable,
    weights: SumTable,
    missing: Sums,
    unlisted: Sums,
) -> None:
    """Fill the last three arrays, and put the masses of fill at 0.

    Parameters
    ----------
    ids, masses : int64 and float64 arrays, shape (rows, K)
        The distributions; a negative id is fill.
    weights : float64 array, shape (nodes, 3)
    missing, unlisted : float64 arrays, shape (rows,)
        What a row's masses lack to one, and the most that an unlisted token may have.
    """
    rows, width = ids.shape
    listed = np.empty(width)
    for row in range(rows):
        least = 1.0
        for place in range(width):
            if ids[row, place] >= 0:
                least = min(least, masses[row, place])
            else:
                masses[row, place] = 0.0
            listed[place] = masses[row, place]
        lacks = 1.0 - pairwise_sum(listed, 0, width)
        missing[row] = lacks if lacks > _ROUNDING else 0.0
        unlisted[row] = min(missing[row], least)
    for text in range(len(first) - 1):
        for part in range(3):
            weights[first[text], part] = 1.0
        for node in range(first[text] + 1, first[text + 1]):
            before = first[text] + nodes[node, BEGIN]
            row, found = row_of[before], -1
            most = 1.0
            if row >= 0:
                most = unlisted[row]
                for place in range(width):
                    if ids[row, place] == nodes[node, TOKEN]:
                        found = place
                        break
            if found >= 0:
                for part in range(3):
                    weights[node, part] = weights[before, part] * masses[row, found]
            else:
                # Only the upper bound of the factor is known.
                weights[node, LEAST] = 0.0
                weights[node, VALUE] = weights[before, VALUE] * most / 2
                weights[node, MOST] = weights[before, MOST] * most


@compiled(fast=False)
def mark_worth(
    nodes: PlaceTable,
    first: Places,
    row_of: Places,
    weights: SumTable,
    totals: Sums,
    worth: Number,
    goes_on: Number,
    marked: Flags,
) -> None:
    """Mark the nodes to ask for whose distributions may matter.

    Parameters
    ----------
    totals : float64 array, shape (texts,)
        All mass at the end of each text, or less.
    worth : float
        The share of it that must go through a node.
    goes_on : float
        The assumed share of the mass that crosses the end, for a node off the path to the end.
    marked : bool array, shape (nodes,)
    """
    for text in range(len(first) - 1):
        least = worth * totals[text]
        for node in range(first[text], first[text + 1]):
            marked[node] = False
            if row_of[node] >= 0 or not nodes[node, ASKABLE] or node + 1 == first[text + 1]:
                continue
            if nodes[node, TO_END]:
                marked[node] = weights[node, VALUE] >= least
            else:
                known = weights[node, LEAST]
                marked[node] = known > 0 and known * goes_on >= least


@compiled(fast=False)
def crossing(
    nodes: PlaceTable,
    first: Places,
    row_of: Places,
    ids: TopIds,
    ranks: OfMaps,
    of_texts: Flags,
) -> PlaceTable:
    """Return the tokens that cross the end of some texts; shape (tokens, 5).

    Of each: the text, the node, the row of it, the place there, and the token.

    Parameters
    ----------
    ranks : int32 array
        The places of the vocabulary's tokens, by bytes.
    of_texts : bool array, shape (texts,)
        The texts that count.
    """
    width, count = ids.shape[1], 0
    found = np.empty((len(nodes) * width, 5), dtype=np.int64)
    for text in range(len(first) - 1):
        if not of_texts[text]:
            continue
        for node in range(first[text], first[text + 1] - 1):
            row = row_of[node]
            if row < 0 or not nodes[node, EXTENDS]:
                continue
            for place in range(width):
                token = ids[row, place]
                if token < 0 or token >= len(ranks):
                    continue
                if nodes[node, FIRST] <= ranks[token] < nodes[node, BEHIND]:
                    found[count, 0] = text
                    found[count, 1] = node
                    found[count, 2] = row
                    found[count, 3] = place
                    found[count, 4] = token
                    count += 1
    return found[:count].copy()


@compiled(fast=False)
def add_up(
    nodes: PlaceTable,
    first: Places,
    row_of: Places,
    weights: SumTable,
    missing: Sums,
    unlisted: Sums,
    own: Places,
    worth: Number,
    totals: Sums,
    errors: Sums,
    tried: Flags,
) -> Count:
    """Add to `totals` the mass at the ends of texts, and to `errors` what nodes leave unknown.

    Parameters
    ----------
    missing, unlisted
        See `weigh_nodes`.
    own : int64 array, shape (nodes,)
        How many tokens of a node's row cross the end and are the tokenizer's own there.
    worth : float
        The share of the mass below which a node without a distribution is not looked at closely.
    totals, errors : float64 arrays, shape (texts,)
        With what crosses the end, and its errors.
    tried : bool array, shape (nodes,)
        Receives the nodes whose errors count only if some token likely crosses the end from them.

    Returns
    -------
    int
        The number of nodes that are `tried`.
    """
    count = 0
    for text in range(len(first) - 1):
        totals[text] += weights[first[text + 1] - 1, VALUE]
        for node in range(first[text], first[text + 1] - 1):
            tried[node] = False
            if not nodes[node, EXTENDS]:
                continue
            most, row = weights[node, MOST], row_of[node]
            longer = nodes[node, BEHIND] - nodes[node, FIRST]
            if row >= 0:
                errors[text] += most * min(missing[row], unlisted[row] * (longer - own[node]))
            elif most > worth * totals[text] and longer <= MOST_TRIED:
                # Trying tokens costs time, so only where it may change much.
                tried[node] = True
                count += 1
            else:
                errors[text] += most
        tried[first[text + 1] - 1] = False
    return count
