"""What follows from the end of a text alone, whoever writes it: its tokens, where it may end.

Words recur, so this is found out once for each end of a text and kept for all streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from floe_plugins.caches import Recent
from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.arrays import IntArray

#: Most bytes after the boundary.
MOST_OPEN = 64

#: Longer ends of a text do not recur.
_LONGEST_KEPT = 2 * MOST_OPEN
#: Most bytes by which the text before is looked for.
_LOOK_BACK = 12
#: Ends of texts, and pieces of them, that are kept.
_MOST_TEXTS, _MOST_PIECES = 8192, 32_768

#: Most tokens crossing the end of the text that are tried for whether the tokenizer writes them.
MOST_TRIED = 16

#: Columns of `OpenText.table`: of a node its place in the text, the number of the node at which its
#: token begins, and its token; the range of the tokens, by bytes, that cross the end from it; the
#: flags of `Node`.
OFFSET, BEGIN, TOKEN, FIRST, BEHIND, EXTENDS, TO_END, ASKABLE = range(8)

#: Columns of nodes' weights: bounds, and the estimate between them.
LEAST, VALUE, MOST = range(3)

#: What a text ends with, and whether nothing is before it, where that matters.
_Key = tuple[bytes, bool]


def json_of(ids: Sequence[int]) -> bytes:
    """Return token ids as JSON, with a comma after each."""
    return b"".join([b"%d," % token for token in ids])


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a text as tokens.

    Attributes
    ----------
    ids, starts : lists of int
        The tokens, and the byte of the tail at which each begins.
    count, byte : int
        How many tokens are before the boundary, and its byte in the tail.
    sure : bool
        True if the tokens before the boundary are final whatever follows: it is at the beginning of
        spaces that the tokenizer never joins with the text before.
    open : OpenText
        What is after the boundary.
    json, final_json : bytes
        The tokens, and those before the boundary; see `json_of`.
    """

    ids: list[int]
    starts: list[int]
    count: int
    byte: int
    sure: bool
    open: OpenText
    json: bytes
    final_json: bytes


class Node(NamedTuple):
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


class Piece(NamedTuple):
    """The tokens of a piece of text, and whether they spell it as it is."""

    ids: tuple[int, ...]
    exact: bool


class Texts:
    """The ends of texts of one vocabulary, and what was found out about them."""

    def __init__(self, vocabulary: ByteVocabulary) -> None:
        self.vocabulary = vocabulary
        # Only WordPiece distinguishes the beginning of a text.
        self._tells_begin = vocabulary.kind == "wordpiece"
        self._open: Recent[_Key, OpenText] = Recent(_MOST_TEXTS)
        self._tails = lru_cache(maxsize=_MOST_TEXTS)(self._new_tail)
        #: The tokens of a piece of text before a word; whether nothing is before it.
        self.piece = lru_cache(maxsize=_MOST_PIECES)(self._new_piece)
        #: The range of the longer tokens that begin with some bytes.
        self.longer = lru_cache(maxsize=_MOST_PIECES)(vocabulary.longer)

    def tail(self, data: bytes, *, begins_text: bool) -> Tail:
        """Return the tokens of the end of a text, and where they become final."""
        begins_text = begins_text and self._tells_begin
        if len(data) > _LONGEST_KEPT:
            return self._new_tail(data, begins_text)
        return self._tails(data, begins_text)

    def open_text(self, data: bytes, begins_text: bool) -> OpenText:
        """Return what follows from the text after a boundary."""
        found = self._open.get((data, begins_text))
        if found is None:
            # The text that it was before its last token, if that is still known.
            befores = (self._open.get((data[:-more], begins_text)) for more in range(1, _LOOK_BACK))
            before = next((each for each in befores if each is not None), None)
            found = OpenText(self, data, begins_text, before)
            self._open.put((data, begins_text), found)
        return found

    def ids(self, data: bytes, begins_text: bool) -> tuple[int, ...]:
        """Return the tokens of a piece of text, before a word."""
        return self.piece(data, begins_text).ids

    def is_own(self, front: bytes, token: int, begins_text: bool) -> bool:
        """Return whether the tokenizer itself would write `token` after `front`."""
        vocabulary = self.vocabulary
        whole = front + (vocabulary.token_bytes[token] or b"")
        own = (*self.ids(front, begins_text), token)
        if self.ids(whole, begins_text) == own:
            return True
        # It may also be the tokenizer's choice if no word follows.
        return (
            vocabulary.is_split_before_words(whole)
            and tuple(vocabulary.encode_words(whole, begins_text=begins_text)[0]) == own
        )

    def _new_piece(self, data: bytes, begins_text: bool) -> Piece:
        ids, _ = self._encoded(data, begins_text)
        token_bytes = self.vocabulary.token_bytes
        return Piece(tuple(ids), b"".join([token_bytes[token] or b"" for token in ids]) == data)

    def _encoded(self, data: bytes, begins_text: bool) -> tuple[list[int], list[int]]:
        return self.vocabulary.encode_words(data, begins_text=begins_text, word_follows=True)

    def _new_tail(self, data: bytes, begins_text: bool) -> Tail:
        ids, words = self._encoded(data, begins_text)
        starts = self.vocabulary.token_starts(data, ids)
        count, byte, sure = self._boundary(data, starts, words)
        final = json_of(ids[:count])
        return Tail(
            ids=ids,
            starts=starts,
            count=count,
            byte=byte,
            sure=sure,
            open=self.open_text(data[byte:], begins_text and not byte),
            json=final + json_of(ids[count:]),
            final_json=final,
        )

    def _boundary(self, data: bytes, starts: list[int], words: list[int]) -> tuple[int, int, bool]:
        r"""Search the boundary from the end; return its token, its byte, and whether it is sure.

        The best place is where spaces begin after a word and the tokenizer splits too. Splits
        elsewhere are not final: GPT-2's pattern joins "'" and "r" when "e" follows, GPT-4's "\n"
        and " " when "\n" follows.
        """
        least = len(data) - MOST_OPEN
        splits = self.vocabulary.splits_words
        first_word, first_token = -1, -1
        for at in range(len(starts) - 1, -1, -1):
            begin = starts[at]
            if begin < least:
                break
            split = at == 0 or words[at] != words[at - 1]
            if begin == 0 or ((split or not splits) and _begins_spaces(data, begin)):
                return at, begin, splits or begin == 0
            first_token = at
            first_word = at if split else first_word
        # A word longer than the limit on open text, perhaps a single token.
        last = len(starts) - 1
        at = next((at for at in (first_word, first_token, last) if at >= 0), 0)
        return at, starts[at] if starts else 0, False


class OpenText:
    """The text after a boundary: its nodes, and which tokens cross its end from them.

    Attributes
    ----------
    data : bytes
    texts : Texts
        Of its vocabulary.
    """

    __slots__ = (
        "_before",
        "_begins_text",
        "_crossed",
        "_crossing",
        "_likely",
        "_longer",
        "_nodes",
        "_table",
        "_to_ask",
        "data",
        "texts",
    )

    def __init__(
        self, texts: Texts, data: bytes, begins_text: bool, before: OpenText | None = None
    ) -> None:
        self.texts, self.data, self._begins_text, self._before = texts, data, begins_text, before
        self._crossed: tuple[int, ...] = ()
        self._nodes: tuple[Node, ...] | None = None
        self._to_ask: tuple[int | None, ...] = ()
        self._table: IntArray | None = None
        self._crossing: dict[tuple[int, int], bytes | None] = {}
        self._likely: dict[int, bool] = {}
        self._longer: dict[int, tuple[int, int]] = {}

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The relevant nodes by offset; first the start, last the end."""
        if self._nodes is None:
            *found, _ = self._nodes = self._found_nodes()
            self._to_ask = tuple([node.offset if node.askable else None for node in found])
        return self._nodes

    @property
    def to_ask(self) -> tuple[int | None, ...]:
        """Offsets of the nodes before the end; None where the expert cannot be asked."""
        if self._nodes is None:
            # The nodes tell.
            assert self.nodes
        return self._to_ask

    @property
    def table(self) -> IntArray:
        """The nodes as int64 array, shape (nodes, 8); see `OFFSET` and what is next to it."""
        if self._table is None:
            place_of = {node.offset: place for place, node in enumerate(self.nodes)}
            cells: list[int] = []
            for node in self.nodes:
                first, behind = self.longer(node.offset) if node.extends else (0, 0)
                begin = place_of.get(node.begin, NOTHING)
                cells += node.offset, begin, node.token, first, behind, *node[3:]
            # A flat list is read several times faster than one of rows.
            self._table = np.array(cells, dtype=np.int64).reshape(len(place_of), -1)
        return self._table

    def longer(self, offset: int) -> tuple[int, int]:
        """Return the range of tokens, by bytes, that cross the end from a node."""
        found = self._longer.get(offset)
        if found is None:
            found = self._longer[offset] = self.texts.longer(self.data[offset:])
        return found

    def behind_the_end(self, offset: int, token: int) -> bytes | None:
        """Return the bytes after the end of a token that crosses it from a node.

        None if the tokenizer itself would not write it there.
        """
        key = (offset, token)
        if key not in self._crossing:
            own = self.texts.is_own(self.data[:offset], token, self._begins_text)
            spelled = self.texts.vocabulary.token_bytes[token] or b""
            self._crossing[key] = spelled[len(self.data) - offset :] if own else None
        return self._crossing[key]

    def leads_over(self, node: Node) -> bool:
        """Return whether a token likely crosses the end from a node, or one that begins there."""
        return self.likely_extends(node.offset) or any(
            self.leads_over(other) for other in self.nodes[:-1] if other.begin == node.offset
        )

    def likely_extends(self, offset: int) -> bool:
        """Return whether the tokenizer would write any of some tokens that cross the end."""
        if offset not in self._likely:
            begin, stop = self.longer(offset)
            step = 1 + (stop - begin) // MOST_TRIED
            tokens = self.texts.vocabulary.by_bytes[begin:stop:step].tolist()
            front = self.data[:offset]
            self._likely[offset] = any(
                self.texts.is_own(front, token, self._begins_text) for token in tokens
            )
        return self._likely[offset]

    def _found_crossed(self) -> tuple[int, ...]:
        """Return the offsets from which some token crosses the end."""
        offsets: Iterable[int] = range(len(self.data))
        before, self._before = self._before, None
        if before is not None and before._nodes is not None:
            # No token crosses the end that does not cross what was the end before.
            offsets = (*before._crossed, *range(len(before.data), len(self.data)))
        found = []
        for offset in offsets:
            begin, stop = self.texts.longer(self.data[offset:])
            if begin < stop:
                self._longer[offset] = begin, stop
                found.append(offset)
        self._crossed = tuple(found)
        return self._crossed

    def _found_nodes(self) -> tuple[Node, ...]:
        texts, data, begins = self.texts, self.data, self._begins_text
        vocabulary = texts.vocabulary
        own, exact = texts.piece(data, begins)
        if not exact:
            # What is not found out here must not be relied on.
            self._crossed = tuple(range(len(data)))
            # The tokenizer changes this text (case, accents): tokens have no byte offsets in it.
            return (Node(len(data), NOTHING, NOTHING, extends=False, to_end=True, askable=True),)
        paths: dict[int, tuple[int, ...]] = {}
        for offset in self._found_crossed():
            ids, exact = texts.piece(data[:offset], begins)
            if exact:
                paths[offset] = ids
        shared = len(own)
        for ids in paths.values():
            if ids[:shared] != own[:shared]:
                shared = _shared(own, ids)
        token_bytes = vocabulary.token_bytes
        first = len(vocabulary.decode(own[:shared]))
        nodes: dict[int, Node] = {}
        reached: dict[int, tuple[int, ...]] = {}
        for ids in (own, *paths.values()):
            before, offset = NOTHING, first
            for count in range(shared, len(ids) + 1):
                token = NOTHING
                if count > shared:
                    token = ids[count - 1]
                    offset += len(token_bytes[token] or b"")
                path, known = ids[:count], reached.get(offset)
                if known is None:
                    reached[offset] = path
                    nodes[offset] = Node(
                        offset,
                        before,
                        token,
                        extends=offset in paths,
                        to_end=path == own[:count],
                        # Where a token may cross the end, the tokens up to there are known.
                        askable=(paths.get(offset) or texts.ids(data[:offset], begins)) == path,
                    )
                elif known != path:
                    # The tokenizer takes only one path to a place.
                    break
                before = offset
        return tuple(nodes[offset] for offset in sorted(nodes))


@lru_cache(maxsize=8)
def texts_of(vocabulary: ByteVocabulary) -> Texts:
    """Return the ends of texts of a vocabulary, which all its streams share."""
    return Texts(vocabulary)


def _begins_spaces(data: bytes, at: int) -> bool:
    """Return whether white space begins at `at`."""
    return data[at : at + 1].isspace() and not data[at - 1 : at].isspace()


def _shared(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Return the length of the common prefix of two sequences of tokens."""
    pairs = zip(first, second, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
