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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vllm_logits_processor.alignment.groups import ExpertTopK, stacked
from vllm_logits_processor.alignment.open_text import LEAST, MOST, OFFSET, VALUE, OpenText
from vllm_logits_processor.alignment.prefix import ExpertPrefix
from vllm_logits_processor.arrays import Float64Array, IntArray

#: A text, and what was received of it: one row by byte offset, which is the expert's distribution
#: after ``prefix.token_ids_to(offset)``.
Text: TypeAlias = tuple[ExpertPrefix, Mapping[int, ExpertTopK]]

#: Tells whether a text may continue with some bytes.
Admits: TypeAlias = Callable[[bytes], bool]

#: A node's distribution is requested if this share of the mass may go through it.
_WORTH = 1e-2

#: Assumed share of the mass that crosses the end, for a node off the path to the end: such a node
#: is mostly a whole word, after which the text continued differently.
_GOES_ON = 0.05


@dataclass(slots=True)
class Covered:
    """The expert's distribution over what follows a text.

    Attributes
    ----------
    top : ExpertTopK
        One row, at the end of the text, as received; a token stands for text that begins with its
        bytes.
    log_share : float
        The logarithm of the share of the mass that these tokens have.
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
    log_share: float = 0.0

    @property
    def logprobs(self) -> Float64Array:
        """Logarithms of the probabilities of the tokens of `top`."""
        return self.top.logprobs + self.log_share if self.log_share else self.top.logprobs


class _Nodes:
    """The nodes of some texts and what was received at them, in arrays."""

    def __init__(self, texts: Sequence[Text]) -> None:
        from vllm_logits_processor.alignment.cover_sums import weigh_nodes

        self.texts: list[OpenText] = []
        row_of: list[int] = []
        rows: list[ExpertTopK] = []
        for prefix, received in texts:
            text, boundary = prefix.open_text(), prefix.boundary()
            self.texts.append(text)
            for offset in text.to_ask:
                top = None if offset is None else received.get(boundary + offset)
                if top is None:
                    row_of.append(-1)
                else:
                    row_of.append(len(rows))
                    rows.append(top)
            # The end's own distribution weighs nothing.
            row_of.append(-1)
        tables = [text.table for text in self.texts]
        self.table: IntArray = np.concatenate(tables)
        self.first: IntArray = np.zeros(len(tables) + 1, dtype=np.int64)
        np.cumsum([len(table) for table in tables], out=self.first[1:])
        self.row_of: IntArray = np.array(row_of, dtype=np.int64)
        self.ids, logprobs = _joined(rows)
        self.masses: Float64Array = np.exp(logprobs)
        self.weights: Float64Array = np.empty((len(row_of), 3))
        self.missing: Float64Array = np.empty(len(rows))
        self.unlisted: Float64Array = np.empty(len(rows))
        weigh_nodes(
            self.table,
            self.first,
            self.row_of,
            self.ids,
            self.masses,
            self.weights,
            self.missing,
            self.unlisted,
        )

    def wanted(self) -> list[list[int]]:
        """Return the offsets after each text's boundary to ask for, those on its path first."""
        found: list[list[tuple[bool, int]]] = [[] for _ in self.texts]
        # What the totals are at least: most nodes weigh too little for any.
        totals = self.weights[self.first[1:] - 1, VALUE]
        marked = self._worth(totals)
        if len(marked):
            of_texts = np.zeros(len(self.texts), dtype=np.bool_)
            of_texts[self._text_of(marked)] = True
            crossing = _Crossing(self, of_texts)
            added = (self.weights[crossing.node, VALUE] * crossing.mass).tolist()
            for text, rest, value in zip(crossing.text, crossing.rests, added, strict=True):
                if rest is not None:
                    totals[text] += value
            marked = self._worth(totals)
        for place, at in zip(marked.tolist(), self._text_of(marked).tolist(), strict=True):
            text = self.texts[at]
            node = text.nodes[place - int(self.first[at])]
            if node.to_end or text.leads_over(node):
                found[at].append((not node.to_end, node.offset))
        return [[offset for _, offset in sorted(each)] for each in found]

    def covered(self, ends: Sequence[ExpertTopK], admits: Sequence[Admits]) -> list[Covered]:
        """Return the expert's distributions over what follows the texts."""
        from vllm_logits_processor.alignment.cover_sums import add_up

        crossing = _Crossing(self, np.ones(len(self.texts), dtype=np.bool_))
        weights = self.weights[crossing.node]
        values = weights[:, VALUE]
        errors_of = np.maximum(weights[:, MOST] - values, values - weights[:, LEAST])
        added: list[dict[bytes, float]] = [{} for _ in ends]
        errors, own = [0.0] * len(ends), [0] * len(self.table)
        for at, node, rest, value, error in zip(
            crossing.text,
            crossing.node.tolist(),
            crossing.rests,
            (values * crossing.mass).tolist(),
            (errors_of * crossing.mass).tolist(),
            strict=True,
        ):
            if rest is not None:
                own[node] += 1
                if admits[at](rest):
                    masses = added[at]
                    masses[rest] = masses.get(rest, 0.0) + value
                    errors[at] += error
        totals = np.array([sum(masses.values()) for masses in added], dtype=np.float64)
        bounds, tried = np.array(errors), np.empty(len(own), dtype=np.bool_)
        if add_up(
            self.table,
            self.first,
            self.row_of,
            self.weights,
            self.missing,
            self.unlisted,
            np.array(own),
            _WORTH,
            totals,
            bounds,
            tried,
        ):
            places = np.flatnonzero(tried)
            of_text = self._text_of(places).tolist()
            for place, at in zip(places.tolist(), of_text, strict=True):
                if self.texts[at].likely_extends(int(self.table[place, OFFSET])):
                    bounds[at] += self.weights[place, MOST]
        return [
            _covered(*each)
            for each in zip(
                ends,
                added,
                totals.tolist(),
                bounds.tolist(),
                self.weights[self.first[1:] - 1].tolist(),
                strict=True,
            )
        ]

    def _worth(self, totals: Float64Array) -> IntArray:
        """Return the nodes whose distributions may matter, given the mass at the texts' ends."""
        from vllm_logits_processor.alignment.cover_sums import mark_worth

        marked = np.empty(len(self.table), dtype=np.bool_)
        mark_worth(
            self.table, self.first, self.row_of, self.weights, totals, _WORTH, _GOES_ON, marked
        )
        return np.flatnonzero(marked)

    def _text_of(self, nodes: IntArray) -> IntArray:
        return np.searchsorted(self.first, nodes, side="right") - 1


class _Crossing:
    """The tokens that cross the ends of some texts: where they are, and what is behind the end.

    `rests` has None for a token that the tokenizer itself would not write there.
    """

    def __init__(self, nodes: _Nodes, of_texts: npt.NDArray[np.bool_]) -> None:
        from vllm_logits_processor.alignment.cover_sums import crossing

        ranks = nodes.texts[0].texts.vocabulary.ranks
        found = crossing(nodes.table, nodes.first, nodes.row_of, nodes.ids, ranks, of_texts)
        self.node: IntArray = found[:, 1]
        self.mass: Float64Array = nodes.masses[found[:, 2], found[:, 3]]
        self.text: list[int] = found[:, 0].tolist()
        self.rests = [
            nodes.texts[text].behind_the_end(offset, token)
            for text, offset, token in zip(
                self.text,
                nodes.table[self.node, OFFSET].tolist(),
                found[:, 4].tolist(),
                strict=True,
            )
        ]


def wanted_of_all(texts: Sequence[Text], *, most: int) -> list[list[int]]:
    """Return for each text the byte offsets at which distributions must still be requested.

    Parameters
    ----------
    texts : sequence of Text
        Of one vocabulary.
    most : int
        Most offsets of a text, not counting its end.

    Returns
    -------
    list of lists of int
        The end of the text first, if it has not been received. Empty at the beginning of a text
        without a front, where there is no token to send.
    """
    found = [
        [] if prefix.length in received or not prefix.has_tokens else [prefix.length]
        for prefix, received in texts
    ]
    lacking = [at for at, text in enumerate(texts) if _lacks_covers(*text)] if most else []
    if lacking:
        wanted = _Nodes([texts[at] for at in lacking]).wanted()
        for at, offsets in zip(lacking, wanted, strict=True):
            if offsets:
                prefix = texts[at][0]
                places = [prefix.boundary() + offset for offset in offsets]
                found[at] += [place for place in places if prefix.token_ids_to(place)][:most]
    return found


def wanted_offsets(
    prefix: ExpertPrefix, received: Mapping[int, ExpertTopK], *, most: int
) -> list[int]:
    """Return what `wanted_of_all` returns for one text."""
    return wanted_of_all([(prefix, received)], most=most)[0]


def _lacks_covers(prefix: ExpertPrefix, received: Mapping[int, ExpertTopK]) -> bool:
    """Return whether anything may be wanted of a text besides its end."""
    to_ask = prefix.open_text().to_ask
    if to_ask:
        boundary = prefix.boundary()
        for offset in to_ask:
            if offset is not None and boundary + offset not in received:
                return True
    return False


def covered_of_all(texts: Sequence[Text], admits: Sequence[Admits]) -> list[Covered]:
    """Return the expert's distributions over what follows some texts.

    Parameters
    ----------
    texts : sequence of Text
        Of one vocabulary; the end of each has been received. The results bound the errors of other
        missing offsets.
    admits : sequence of callables
        Of each text. Excluded bytes do not count, like texts that differ from this one.

    Raises
    ------
    KeyError
        The end of a text has not been received.
    """
    ends = [received[prefix.length] for prefix, received in texts]
    several = [at for at, (prefix, _) in enumerate(texts) if prefix.open_text().to_ask]
    if not several:
        return [Covered(top=end) for end in ends]
    found = _Nodes([texts[at] for at in several]).covered(
        [ends[at] for at in several], [admits[at] for at in several]
    )
    if len(several) == len(ends):
        return found
    by_place = dict(zip(several, found, strict=True))
    return [by_place.get(at) or Covered(top=end) for at, end in enumerate(ends)]


def covered(
    prefix: ExpertPrefix,
    received: Mapping[int, ExpertTopK],
    *,
    admits: Admits = lambda rest: True,
) -> Covered:
    """Return what `covered_of_all` returns for one text."""
    return covered_of_all([(prefix, received)], [admits])[0]


def _covered(
    end: ExpertTopK, added: dict[bytes, float], total: float, error: float, weight: list[float]
) -> Covered:
    """Return a distribution of which `total` is known, `weight` of it at the end of the text."""
    if not added and not error:
        return Covered(top=end)
    if total <= 0:
        return Covered(top=end, unexpanded=1.0)
    least, value, most = weight
    share = value / total
    return Covered(
        end,
        {rest: mass / total for rest, mass in added.items()},
        min(1.0, (error + max(most - value, value - least)) / total),
        math.log(share) if share > 0 else -math.inf,
    )


def _joined(rows: Sequence[ExpertTopK]) -> tuple[IntArray, Float64Array]:
    """Return the tokens of some distributions of one row each, and their logarithms."""
    if not rows:
        return np.empty((0, 0), dtype=np.int64), np.empty((0, 0))
    widths = {row.token_ids.shape[1] for row in rows}
    if len(widths) > 1:
        both = stacked(list(rows))
        return both.token_ids, both.logprobs
    ids = np.concatenate([row.token_ids for row in rows])
    return ids, np.concatenate([row.logprobs for row in rows])
