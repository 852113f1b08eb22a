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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.alignment.prefix import ExpertPrefix
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

#: A node's distribution is requested if this share of the mass may go through it.
_WORTH = 1e-2

#: Assumed share of the mass that crosses the end, for a node off the path to the end: such a node
#: is mostly a whole word, after which the text continued differently.
_GOES_ON = 0.05

#: A complete row may sum to this much less than one.
_ROUNDING = 1e-12

#: Most tokens crossing the end of the text that are tried for whether the tokenizer writes them.
_MOST_TRIED = 16


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


@dataclass(frozen=True)
class _Node:
    """A place after the boundary, and the tokens that lead there.

    `begin` is the node at which `token`, its last one, begins; `NOTHING` for the start. `extends`
    tells whether a token may cross the end from here, `to_end` whether the tokens of the whole
    text go through it, and `askable` whether its tokens are the tokenizer's own for these bytes.
    """

    offset: int
    begin: int
    token: int
    extends: bool
    to_end: bool
    askable: bool


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


class _Row:
    """One distribution in which tokens can be looked up."""

    def __init__(self, top: ExpertTopK, vocabulary: ByteVocabulary) -> None:
        self.top = top
        known = top.token_ids[0] != NOTHING
        self.ids = top.token_ids[0][known]
        self.masses = np.exp(top.logprobs[0][known])
        self.ranks = vocabulary.ranks[self.ids]
        self._places = self.ids.tolist()
        missing = 1.0 - float(self.masses.sum())
        self.missing = missing if missing > _ROUNDING else 0.0
        #: Upper bound on the probability of an unlisted token.
        self.unlisted = min(self.missing, float(self.masses.min(initial=1.0)))

    def weight_of(self, token: int, begin: _Weight) -> _Weight:
        """Return the weight of the node to which `token` leads from a node that weighs `begin`."""
        if token in self._places:
            return begin.times(float(self.masses[self._places.index(token)]))
        return begin.up_to(self.unlisted)


class _OverTheEnd(NamedTuple):
    """The tokens of a row that cross the end of the text, their masses, and their sum."""

    row: _Row
    tokens: list[int]
    masses: list[float]
    total: float


class _Open:
    """The text after the boundary, its nodes, and what was received at them.

    What is wanted, asked for and used of one text is found out once, and rows are kept while the
    text grows by the same word.
    """

    def __init__(self, prefix: ExpertPrefix, before: _Open | None) -> None:
        self.length, self.boundary = prefix.length, prefix.boundary()
        self.vocabulary, self.begins_text = prefix.vocabulary, not self.boundary
        self.tail = prefix.tail(self.boundary)
        self.nodes = _nodes(self.vocabulary, self.tail, self.begins_text)
        kept: dict[int, _Row] = before._rows if before else {}
        self._rows: dict[int, _Row] = {at: row for at, row in kept.items() if at >= self.boundary}
        self._weights: tuple[dict[int, _Row], dict[int, _Weight]] | None = None
        self._over: dict[int, _OverTheEnd] = {}
        self._longer: dict[int, tuple[int, int]] = {}

    @staticmethod
    def of(prefix: ExpertPrefix) -> _Open:
        found = prefix.remembered
        before = found if isinstance(found, _Open) else None
        # A text only grows: one of the same length is the same.
        if before is None or before.length != prefix.length:
            before = prefix.remembered = _Open(prefix, before)
        return before

    def rows(self, received: Mapping[int, ExpertTopK]) -> dict[int, _Row]:
        """Return what was received at the nodes before the end, by offset after the boundary."""
        found = {}
        for node in self.nodes[:-1]:
            at = self.boundary + node.offset
            top = received.get(at) if node.askable else None
            if top is not None:
                row = self._rows.get(at)
                if row is None or row.top is not top:
                    row = self._rows[at] = _Row(top, self.vocabulary)
                found[node.offset] = row
        return found

    def weights(self, rows: dict[int, _Row]) -> dict[int, _Weight]:
        if self._weights is None or self._weights[0] != rows:
            self._weights = rows, _weights(self.nodes, rows)
        return self._weights[1]

    def longer(self, offset: int) -> tuple[int, int]:
        """Return the range of tokens that cross the end from a node."""
        if offset not in self._longer:
            self._longer[offset] = self.vocabulary.longer(self.tail[offset:])
        return self._longer[offset]

    def over_the_end(self, node: _Node, row: _Row) -> _OverTheEnd:
        found = self._over.get(node.offset)
        if found is None or found.row is not row:
            begin, stop = self.longer(node.offset) if node.extends else (0, 0)
            front = self.tail[: node.offset]
            kept = [
                at
                for at in np.flatnonzero((row.ranks >= begin) & (row.ranks < stop)).tolist()
                if _is_own(self.vocabulary, front, int(row.ids[at]), self.begins_text)
            ]
            masses = row.masses[kept]
            tokens = [int(row.ids[at]) for at in kept]
            found = _OverTheEnd(row, tokens, masses.tolist(), float(masses.sum()))
            self._over[node.offset] = found
        return found


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
    wanted = [] if prefix.length in received or not prefix.token_ids() else [prefix.length]
    if not most or prefix.boundary() == prefix.length:
        return wanted
    open_text = _Open.of(prefix)
    nodes, boundary = open_text.nodes, open_text.boundary
    if len(nodes) == 1:
        return wanted
    rows = open_text.rows(received)
    missing = [node for node in nodes[:-1] if node.askable and node.offset not in rows]
    if not missing:
        return wanted
    weights = open_text.weights(rows)
    total = weights[nodes[-1].offset].value + sum(
        weights[node.offset].value * open_text.over_the_end(node, rows[node.offset]).total
        for node in nodes[:-1]
        if node.offset in rows
    )
    # Off the path to the end, only nodes that are likely to matter are requested.
    worth = [
        (not node.to_end, node.offset)
        for node in missing
        if (
            weights[node.offset].value >= _WORTH * total
            if node.to_end
            else weights[node.offset].least * _GOES_ON >= _WORTH * total
            and weights[node.offset].least > 0
            and _leads_over(prefix.vocabulary, open_text.tail, nodes, node, open_text.begins_text)
        )
        and prefix.token_ids_to(boundary + node.offset)
    ]
    return wanted + [boundary + offset for _, offset in sorted(worth)[:most]]


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
    if prefix.boundary() == prefix.length:
        return Covered(top=end)
    open_text = _Open.of(prefix)
    nodes, tail = open_text.nodes, open_text.tail
    if len(nodes) == 1:
        return Covered(top=end)
    rows = open_text.rows(received)
    weights = open_text.weights(rows)
    masses: dict[bytes, float] = {}
    unanswered: list[_Node] = []
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
        for token, mass in zip(over.tokens, over.masses, strict=True):
            rest = (prefix.vocabulary.token_bytes[token] or b"")[len(tail) - node.offset :]
            if admits(rest):
                masses[rest] = masses.get(rest, 0.0) + weight.value * mass
                error += weight.error * mass
        begin, stop = open_text.longer(node.offset)
        error += weight.most * min(row.missing, row.unlisted * (stop - begin - len(over.tokens)))
    weight = weights[nodes[-1].offset]
    total = weight.value + sum(masses.values())
    for node in unanswered:
        most = weights[node.offset].most
        # Trying tokens costs time, so only where it may change much.
        begin, stop = open_text.longer(node.offset)
        tried = most > _WORTH * total and stop - begin <= _MOST_TRIED
        if not tried or _likely_extends(
            prefix.vocabulary, tail, node.offset, open_text.begins_text
        ):
            error += most
    if not masses and not error:
        return Covered(top=end)
    if total <= 0:
        return Covered(top=end, unexpanded=1.0)
    with np.errstate(divide="ignore"):
        logprobs = end.logprobs + np.log(weight.value / total)
    return Covered(
        top=ExpertTopK(token_ids=end.token_ids, logprobs=logprobs),
        remainders={rest: mass / total for rest, mass in masses.items()},
        unexpanded=min(1.0, (error + weight.error) / total),
    )


def _weights(nodes: tuple[_Node, ...], rows: Mapping[int, _Row]) -> dict[int, _Weight]:
    weights = {nodes[0].offset: _Weight(1.0, 1.0, 1.0)}
    for node in nodes[1:]:
        begin = weights[node.begin]
        if node.begin in rows:
            weights[node.offset] = rows[node.begin].weight_of(node.token, begin)
        else:
            weights[node.offset] = begin.up_to(1.0)
    return weights


@lru_cache(maxsize=4096)
def _nodes(vocabulary: ByteVocabulary, tail: bytes, begins_text: bool) -> tuple[_Node, ...]:
    """Return the relevant nodes of the open tail by offset; first the start, last the end."""

    def encode(offset: int) -> tuple[int, ...]:
        return _encode(vocabulary, tail[:offset], begins_text)

    own = encode(len(tail))
    if vocabulary.decode(own) != tail:
        # The tokenizer changes this text (case, accents), so tokens have no byte offsets in it.
        return (_Node(len(tail), NOTHING, NOTHING, extends=False, to_end=True, askable=True),)
    paths = {}
    for offset in range(len(tail)):
        begin, stop = vocabulary.longer(tail[offset:])
        if begin < stop and vocabulary.decode(encode(offset)) == tail[:offset]:
            paths[offset] = encode(offset)
    shared = min((_shared(own, ids) for ids in paths.values()), default=len(own))
    nodes: dict[int, _Node] = {}
    reached: dict[int, tuple[int, ...]] = {}
    for ids in (own, *paths.values()):
        begin = NOTHING
        for count in range(shared, len(ids) + 1):
            offset = len(vocabulary.decode(ids[:count]))
            # The tokenizer takes only one path to a place.
            if reached.setdefault(offset, ids[:count]) != ids[:count]:
                break
            nodes[offset] = _Node(
                offset=offset,
                begin=begin,
                token=ids[count - 1] if count > shared else NOTHING,
                extends=offset in paths,
                to_end=ids[:count] == own[:count],
                askable=encode(offset) == ids[:count],
            )
            begin = offset
    return tuple(nodes[offset] for offset in sorted(nodes))


def _shared(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Return the length of the common prefix of two sequences of tokens."""
    pairs = zip(first, second, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


@lru_cache(maxsize=16384)
def _encode(vocabulary: ByteVocabulary, data: bytes, begins_text: bool) -> tuple[int, ...]:
    ids, _ = vocabulary.encode_words(data, begins_text=begins_text, word_follows=True)
    return tuple(ids)


@lru_cache(maxsize=16384)
def _is_own(vocabulary: ByteVocabulary, front: bytes, token: int, begins_text: bool) -> bool:
    """Return whether the tokenizer itself would write `token` after `front`."""
    whole = front + (vocabulary.token_bytes[token] or b"")
    own = (*_encode(vocabulary, front, begins_text), token)
    if _encode(vocabulary, whole, begins_text) == own:
        return True
    # It may also be the tokenizer's choice if no word follows.
    return tuple(vocabulary.encode_words(whole, begins_text=begins_text)[0]) == own


def _leads_over(
    vocabulary: ByteVocabulary,
    tail: bytes,
    nodes: tuple[_Node, ...],
    node: _Node,
    begins_text: bool,
) -> bool:
    """Return whether a token likely crosses the end from a node, or from one that begins there."""
    return _likely_extends(vocabulary, tail, node.offset, begins_text) or any(
        _leads_over(vocabulary, tail, nodes, other, begins_text)
        for other in nodes[:-1]
        if other.begin == node.offset
    )


@lru_cache(maxsize=4096)
def _likely_extends(
    vocabulary: ByteVocabulary, tail: bytes, offset: int, begins_text: bool
) -> bool:
    """Return whether the tokenizer would write any of some tokens that cross the end."""
    begin, stop = vocabulary.longer(tail[offset:])
    tokens = vocabulary.by_bytes[begin : stop : 1 + (stop - begin) // _MOST_TRIED].tolist()
    return any(_is_own(vocabulary, tail[:offset], token, begins_text) for token in tokens)
