"""The expert's exact distribution over the next byte where a text ends inside one of its tokens.

Given the tokens of a text, an expert predicts only what comes after the last of them. But the text
may end inside what the expert would have written as one token: instead of " wat" it would have
written " water", so it considers any continuation unlikely. Its distribution over the next *byte*
is a sum over the covers of the text: the token sequences whose bytes begin with the text and whose
last token ends at its end or after it (Phan et al., "Exact Byte-Level Probabilities from Tokenized
Language Models", ICLR 2025; Vieira et al., "From Language Models over Tokens to Language Models
over Characters", 2024).

A prefix of a tokenizer's own encoding is the tokenizer's own encoding of those bytes. (Rare
exceptions: GPT-2's pattern joins the last of several spaces with the word that follows, and splits
off the last of several line feeds before one.) So the covers go through at most one node per byte
offset: the tokens of the text up to there. Only offsets after the boundary of the prefix are open.
With `D_j` the expert's distribution at offset `j`, `t_j` the last token up to there and `i` the
offset at which it begins, nodes weigh

    w_start = 1,    w_j = w_i * D_i(t_j).

A token `u` at node `j` that crosses the end of the text adds ``w_j * D_j(u)`` to the bytes of it
after the end, and the node at the end adds all its tokens with its weight.

The start is the last node that all these paths share. Most positions need only distributions that
were received at earlier steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.alignment.open_text import MOST_TRIED, Node, OpenText
from vllm_logits_processor.alignment.prefix import ExpertPrefix
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

#: A node's distribution is requested if this share of the mass may go through it.
_WORTH = 1e-2

#: Assumed share of the mass that crosses the end, for a node off the path to the end: such a node
#: is mostly a whole word, after which the text continued differently.
_GOES_ON = 0.05

#: A complete row may sum to this much less than one.
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Covered:
    """The expert's distribution over what follows a text.

    Attributes
    ----------
    top : ExpertTopK
        One row, at the end of the text; a token stands for text that begins with its bytes.
    remainders : mapping of bytes to float
        The bytes after the text of tokens that began in it, and their probability. No token stands
        for them: any tokens may spell these bytes.
    unexpanded : float
        Largest error of the probability of any event, due to nodes without a distribution and to
        tokens on the path outside the top K; from 0 to 1.
    """

    top: ExpertTopK
    remainders: Mapping[bytes, float] = field(default_factory=dict)
    unexpanded: float = 0.0


class _Weight(NamedTuple):
    """The weight of a node: between `least` and `most`, estimated as `value`."""

    least: float
    value: float
    most: float

    @property
    def error(self) -> float:
        return max(self.most - self.value, self.value - self.least)

    def times(self, factor: float) -> _Weight:
        return _Weight(self.least * factor, self.value * factor, self.most * factor)

    def up_to(self, factor: float) -> _Weight:
        """Return the product with a factor of which only the upper bound is known."""
        return _Weight(0.0, self.value * factor / 2, self.most * factor)


_ONE = _Weight(1.0, 1.0, 1.0)


class _Row(NamedTuple):
    """One distribution in which tokens can be looked up.

    `missing` is what the masses lack to one, `unlisted` an upper bound on the probability of a
    token that is not listed, and `ranks` the tokens' places by bytes.
    """

    top: ExpertTopK
    ids: list[int]
    masses: list[float]
    ranks: list[int]
    missing: float
    unlisted: float

    def weight_of(self, token: int, begin: _Weight) -> _Weight:
        """Return the weight of the node to which `token` leads from a node that weighs `begin`."""
        if token in self.ids:
            return begin.times(self.masses[self.ids.index(token)])
        return begin.up_to(self.unlisted)


class _OverTheEnd(NamedTuple):
    """The tokens of a row that cross the end: what they add behind it, their masses, the sum."""

    row: _Row
    rests: list[bytes]
    masses: list[float]
    total: float


class _Open:
    """The text after the boundary, and what was received at its nodes.

    What is wanted, asked for and used of one text is found out once, and rows are kept while the
    text grows by the same word.
    """

    __slots__ = ("_over", "_weights", "boundary", "length", "rows", "text")

    def __init__(self, prefix: ExpertPrefix, before: _Open | None) -> None:
        self.length, self.boundary = prefix.length, prefix.boundary()
        self.text: OpenText = prefix.open_text()
        kept: dict[int, _Row] = before.rows if before else {}
        self.rows: dict[int, _Row] = {at: row for at, row in kept.items() if at >= self.boundary}
        self._weights: tuple[dict[int, _Row], dict[int, _Weight]] | None = None
        self._over: dict[int, _OverTheEnd] = {}

    @staticmethod
    def of(prefix: ExpertPrefix) -> _Open:
        found = prefix.remembered
        before = found if isinstance(found, _Open) else None
        # A text only grows: one of the same length is the same.
        if before is None or before.length != prefix.length:
            before = prefix.remembered = _Open(prefix, before)
        return before

    def new_rows(self, received: Mapping[int, ExpertTopK]) -> list[tuple[int, ExpertTopK]]:
        """Return what was received at the nodes before the end and has no row yet."""
        new = []
        for offset in self.text.to_ask:
            at = self.boundary + offset
            top = received.get(at)
            if top is not None:
                row = self.rows.get(at)
                if row is None or row.top is not top:
                    new.append((at, top))
        return new

    def received(self, received: Mapping[int, ExpertTopK]) -> dict[int, _Row]:
        """Return what was received at the nodes before the end, by offset after the boundary."""
        if new := self.new_rows(received):
            made = _rows([top for _, top in new], self.text.texts.vocabulary)
            self.rows.update(zip([at for at, _ in new], made, strict=True))
        boundary, rows = self.boundary, self.rows
        return {
            offset: rows[boundary + offset]
            for offset in self.text.to_ask
            if boundary + offset in received
        }

    def weights(self, rows: dict[int, _Row]) -> dict[int, _Weight]:
        known = self._weights
        # The same rows are the same objects.
        if known is None or list(map(id, known[0].values())) != list(map(id, rows.values())):
            known = self._weights = rows, _weights(self.text.nodes, rows)
        return known[1]

    def over_the_end(self, node: Node, row: _Row) -> _OverTheEnd:
        found = self._over.get(node.offset)
        if found is None or found.row is not row:
            begin, stop = self.text.longer(node.offset) if node.extends else (0, 0)
            rests, masses = [], []
            for at, rank in enumerate(row.ranks):
                if begin <= rank < stop:
                    rest = self.text.behind_the_end(node.offset, row.ids[at])
                    if rest is not None:
                        rests.append(rest)
                        masses.append(row.masses[at])
            found = self._over[node.offset] = _OverTheEnd(row, rests, masses, sum(masses))
        return found


def prepare(texts: Iterable[tuple[ExpertPrefix, Mapping[int, ExpertTopK]]]) -> None:
    """Read what was received of several texts at once, which is quicker than one by one.

    Parameters
    ----------
    texts : iterable of pairs
        Texts and what was received of them, as :func:`wanted_offsets` takes them.
    """
    found: list[tuple[_Open, int, ExpertTopK]] = []
    for prefix, received in texts:
        if received and prefix.open_text().to_ask:
            open_text = _Open.of(prefix)
            found += [(open_text, at, top) for at, top in open_text.new_rows(received)]
    if found:
        vocabulary = found[0][0].text.texts.vocabulary
        made = _rows([top for _, _, top in found], vocabulary)
        for (open_text, at, _), row in zip(found, made, strict=True):
            open_text.rows[at] = row


def lacks_covers(prefix: ExpertPrefix, received: Mapping[int, ExpertTopK]) -> bool:
    """Return whether anything may be wanted of a text besides its end; see `wanted_offsets`."""
    to_ask = prefix.open_text().to_ask
    if to_ask:
        boundary = prefix.boundary()
        for offset in to_ask:
            if boundary + offset not in received:
                return True
    return False


def wanted_offsets(
    prefix: ExpertPrefix, received: Mapping[int, ExpertTopK], *, most: int
) -> list[int]:
    """Return the byte offsets of the text at which distributions must still be requested.

    Parameters
    ----------
    prefix : ExpertPrefix
        The text so far.
    received : mapping of int to ExpertTopK
        Byte offset to one row: the expert's distribution after ``prefix.token_ids_to(offset)``.
    most : int
        Most offsets, not counting the end of the text.

    Returns
    -------
    list of int
        The end of the text first, if it has not been received. Empty at the beginning of a text
        without a front, where there is no token to send.
    """
    length = prefix.length
    wanted = [] if length in received or not prefix.has_tokens else [length]
    if most and lacks_covers(prefix, received):
        wanted += _wanted_covers(prefix, received, most)
    return wanted


def _wanted_covers(
    prefix: ExpertPrefix, received: Mapping[int, ExpertTopK], most: int
) -> list[int]:
    open_text = _Open.of(prefix)
    text, boundary = open_text.text, open_text.boundary
    nodes = text.nodes
    rows = open_text.received(received)
    weights = open_text.weights(rows)
    # What the total is at least: most nodes weigh too little for any.
    total = weights[nodes[-1].offset].value
    missing = [
        node
        for node in nodes[:-1]
        if node.askable and node.offset not in rows and _is_worth(node, weights[node.offset], total)
    ]
    if not missing:
        return []
    total += sum(
        weights[node.offset].value * open_text.over_the_end(node, rows[node.offset]).total
        for node in nodes[:-1]
        if node.offset in rows
    )
    worth = [
        (not node.to_end, node.offset)
        for node in missing
        if _is_worth(node, weights[node.offset], total)
        and (node.to_end or text.leads_over(node))
        and prefix.token_ids_to(boundary + node.offset)
    ]
    return [boundary + offset for _, offset in sorted(worth)[:most]]


def _is_worth(node: Node, weight: _Weight, total: float) -> bool:
    """Return whether a node's distribution may matter, given all mass at the end of the text."""
    if node.to_end:
        return weight.value >= _WORTH * total
    # Off the path to the end, only nodes that are likely to matter are requested.
    return weight.least > 0 and weight.least * _GOES_ON >= _WORTH * total


def covered(
    prefix: ExpertPrefix,
    received: Mapping[int, ExpertTopK],
    *,
    admits: Callable[[bytes], bool] = lambda rest: True,
) -> Covered:
    """Return the expert's distribution over what follows the text.

    Parameters
    ----------
    prefix, received
        As for :func:`wanted_offsets`; the end of the text is among them. The result bounds the
        error of other missing offsets.
    admits : callable, optional
        Returns whether the text may continue with some bytes. Excluded bytes do not count, like
        texts that differ from this one.

    Raises
    ------
    KeyError
        The end of the text has not been received.
    """
    end = received[prefix.length]
    text = prefix.open_text()
    nodes = text.nodes
    if len(nodes) == 1:
        return Covered(top=end)
    open_text = _Open.of(prefix)
    rows = open_text.received(received)
    weights = open_text.weights(rows)
    masses: dict[bytes, float] = {}
    unanswered: list[Node] = []
    error = 0.0
    for node in nodes[:-1]:
        weight = weights[node.offset]
        if not node.extends:
            continue
        if node.offset not in rows:
            unanswered.append(node)
            continue
        row = rows[node.offset]
        over = open_text.over_the_end(node, row)
        for rest, mass in zip(over.rests, over.masses, strict=True):
            if admits(rest):
                masses[rest] = masses.get(rest, 0.0) + weight.value * mass
                error += weight.error * mass
        begin, stop = text.longer(node.offset)
        error += weight.most * min(row.missing, row.unlisted * (stop - begin - len(over.rests)))
    weight = weights[nodes[-1].offset]
    total = weight.value + sum(masses.values())
    for node in unanswered:
        most = weights[node.offset].most
        # Trying tokens costs time, so only where it may change much.
        begin, stop = text.longer(node.offset)
        tried = most > _WORTH * total and stop - begin <= MOST_TRIED
        if not tried or text.likely_extends(node.offset):
            error += most
    if not masses and not error:
        return Covered(top=end)
    if total <= 0:
        return Covered(top=end, unexpanded=1.0)
    share = weight.value / total
    logprobs = end.logprobs + (math.log(share) if share > 0 else -math.inf)
    return Covered(
        top=ExpertTopK(token_ids=end.token_ids, logprobs=logprobs),
        remainders={rest: mass / total for rest, mass in masses.items()},
        unexpanded=min(1.0, (error + weight.error) / total),
    )


def _weights(nodes: tuple[Node, ...], rows: Mapping[int, _Row]) -> dict[int, _Weight]:
    weights = {nodes[0].offset: _ONE}
    for node in nodes[1:]:
        begin = weights[node.begin]
        if node.begin in rows:
            weights[node.offset] = rows[node.begin].weight_of(node.token, begin)
        else:
            weights[node.offset] = begin.up_to(1.0)
    return weights


def _rows(tops: list[ExpertTopK], vocabulary: ByteVocabulary) -> list[_Row]:
    """Read distributions of one row each."""
    if len({top.token_ids.shape[1] for top in tops}) > 1:
        return [row for top in tops for row in _rows([top], vocabulary)]
    ids = np.concatenate([top.token_ids for top in tops])
    known = ids != NOTHING
    masses = np.exp(np.concatenate([top.logprobs for top in tops]))
    if known.all():
        ranks, least = vocabulary.ranks[ids], masses.min(axis=1, initial=1.0)
    else:
        masses = np.where(known, masses, 0.0)
        ranks = np.where(known, vocabulary.ranks[ids], -1)
        least = np.where(known, masses, 1.0).min(axis=1, initial=1.0)
    missing = 1.0 - masses.sum(axis=1)
    missing[missing <= _ROUNDING] = 0.0
    columns = (ids, masses, ranks, missing, np.minimum(missing, least))
    return [
        _Row(top, *found)
        for top, *found in zip(tops, *(column.tolist() for column in columns), strict=True)
    ]
