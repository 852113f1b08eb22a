"""The text so far as expert tokens; an update costs only the tokenization of its tail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

#: A tail longer than this is shortened, if a safe cut is found...
_LONG = 384
#: ...that leaves at least this many bytes open.
_OPEN = 128
#: Most bytes after the boundary.
_MOST_OPEN = 64


@dataclass(frozen=True)
class _Tail:
    """The tokens of the tail, the byte of the tail at which each begins, and its word's number."""

    ids: list[int]
    starts: list[int]
    words: list[int]

    def first(self, count: int) -> _Tail:
        return _Tail(self.ids[:count], self.starts[:count], self.words[:count])


@dataclass(frozen=True)
class _Boundary:
    """Tokens of the tail before the boundary, its byte in the tail, and whether it is sure.

    It is sure at the beginning of spaces that the tokenizer never joins with the text before.
    """

    count: int
    byte: int
    sure: bool


class ExpertPrefix:
    """A growing text, tokenized by the expert's tokenizer.

    The text is kept as bytes; nothing is decoded and encoded again. It is split into a settled
    front, whose tokens are final, and a tail, which is tokenized again when it grows. The cut
    between the two is at the beginning of a word, and only where the tokenizer gives the same
    tokens with the cut as without it.

    Text after the :meth:`boundary`, which is the last word with the space before it, may still be
    tokenized differently when more follows. Only there the text has covers.

    Parameters
    ----------
    vocabulary : ByteVocabulary
        The expert's.
    front : sequence of int, optional
        Expert tokens before the text, such as those of a chat template; by default the tokenizer's
        own BOS.
    """

    def __init__(self, vocabulary: ByteVocabulary, front: Sequence[int] | None = None) -> None:
        self.vocabulary = vocabulary
        self._front: list[int] = list(vocabulary.bos_ids if front is None else front)
        self._front_bytes = 0
        self._tail = bytearray()
        self._encoded: _Tail | None = None
        self._boundary: _Boundary | None = None
        #: Tokens of the tail that are not tokenized again, and their number of bytes.
        self._kept, self._kept_bytes = _Tail([], [], []), 0
        self._next_cut = _LONG
        #: What another module has found out about the open text, for it to find it again.
        self.remembered: object | None = None

    @property
    def length(self) -> int:
        """Bytes of text so far."""
        return self._front_bytes + len(self._tail)

    def extend(self, data: bytes) -> None:
        """Append `data` to the text."""
        if data:
            if self._encoded and self._boundary and self._boundary.sure:
                self._kept = self._encoded.first(self._boundary.count)
                self._kept_bytes = self._boundary.byte
            self._tail += data
            self._encoded = self._boundary = None

    def branch(self, data: bytes) -> ExpertPrefix:
        """Return an independent copy with `data` appended."""
        copy = ExpertPrefix(self.vocabulary, self._front)
        copy._front_bytes = self._front_bytes
        copy._tail = bytearray(self._tail)
        copy._encoded, copy._boundary = self._encoded, self._boundary
        copy._kept, copy._kept_bytes = self._kept, self._kept_bytes
        copy._next_cut = self._next_cut
        copy.extend(data)
        return copy

    def token_ids(self) -> list[int]:
        """Return the front and the expert's tokens of the whole text.

        They assume that a word follows: see `word_follows` of :meth:`ByteVocabulary.encode_words`.
        """
        ids = self._encode().ids
        return self._front + ids

    def boundary(self) -> int:
        """Return the byte offset before which the tokens are final for any continuation.

        It is the beginning of the last word (spaces and what follows them) that the tokenizer
        splits off, at most 64 bytes from the end. If there is no such word, it is the beginning of
        a pre-token or of a token there, which is final in all but rare cases.
        """
        # Place the boundary first: it may settle more of the text.
        begin = self._place_boundary().byte
        return self._front_bytes + begin

    def token_ids_to(self, offset: int) -> list[int]:
        """Return the front and the expert's tokens of the first `offset` bytes.

        Raises
        ------
        ValueError
            `offset` is before the boundary or after the text.
        """
        if self._inside(offset) == len(self._tail):
            return self.token_ids()
        final = self._encode().ids[: self._place_boundary().count]
        begin, end = self._place_boundary().byte, self._inside(offset)
        behind, _ = self.vocabulary.encode_words(
            bytes(self._tail[begin:end]), begins_text=not self.boundary(), word_follows=True
        )
        return self._front + final + behind

    def tail(self, offset: int) -> bytes:
        """Return the text from byte `offset` on; see :meth:`token_ids_to` for the errors."""
        begin = self._inside(offset)
        return bytes(self._tail[begin:])

    def _inside(self, offset: int) -> int:
        least = self._place_boundary().byte
        inside = offset - self._front_bytes
        if not least <= inside <= len(self._tail):
            raise ValueError(
                f"The offset is {offset}; accepted are {self.boundary()} to {self.length}."
            )
        return inside

    def _encode(self) -> _Tail:
        if self._encoded is None:
            self._encoded = self._encoded_tail()
            if len(self._tail) >= self._next_cut and self._fix_front(self._encoded):
                self._encoded = self._encoded_tail()
        return self._encoded

    def _encoded_tail(self) -> _Tail:
        kept, begin = self._kept, self._kept_bytes
        data = bytes(self._tail[begin:])
        ids, words = self.vocabulary.encode_words(
            data, begins_text=not self._front_bytes + begin, word_follows=True
        )
        starts = self.vocabulary.token_starts(data, ids)
        if not begin:
            return _Tail(ids, starts, words)
        word = kept.words[-1] + 1 if kept.words else 0
        return _Tail(
            kept.ids + ids,
            kept.starts + [begin + start for start in starts],
            kept.words + [word + each for each in words],
        )

    def _fix_front(self, tail: _Tail) -> bool:
        limit = len(self._tail) - _OPEN
        for at in range(len(tail.ids) - 1, 0, -1):
            begin = tail.starts[at]
            if begin > limit or not self._begins_word(begin):
                continue
            front, rest = bytes(self._tail[:begin]), bytes(self._tail[begin:])
            encoded, _ = self.vocabulary.encode_words(front, begins_text=not self._front_bytes)
            behind, _ = self.vocabulary.encode_words(rest, word_follows=True)
            if encoded == tail.ids[:at] and behind == tail.ids[at:]:
                # Built first, then adopted: a lack of memory leaves the text unchanged.
                tokens, tail_left = self._front + encoded, bytearray(rest)
                self._front, self._tail = tokens, tail_left
                self._front_bytes += begin
                self._kept, self._kept_bytes = _Tail([], [], []), 0
                self._next_cut = _LONG
                return True
            # Try again when the tail has grown; trying every cut would cost a step its time.
            self._next_cut = len(self._tail) + _OPEN
            break
        return False

    def _begins_word(self, at: int) -> bool:
        """Return whether one space and then a letter are at `at`, and no space before."""
        before, here, after = self._tail[at - 1 : at], self._tail[at : at + 1], self._tail[at + 1 :]
        return here == b" " and not before.isspace() and after[:1].isalpha()

    def _place_boundary(self) -> _Boundary:
        if self._boundary is None:
            tail = self._encode()
            self._boundary = self._found_boundary(tail.starts, tail.words)
        return self._boundary

    def _found_boundary(self, starts: list[int], words: list[int]) -> _Boundary:
        r"""Search the boundary from the end.

        The best place is where spaces begin after a word and the tokenizer splits too. Splits
        elsewhere are not final: GPT-2's pattern joins "'" and "r" when "e" follows, GPT-4's "\n"
        and " " when "\n" follows.
        """
        least = len(self._tail) - _MOST_OPEN
        splits = self.vocabulary.splits_words
        first_word, first_token = -1, -1
        for at in range(len(starts) - 1, -1, -1):
            begin = starts[at]
            if begin < least:
                break
            split = at == 0 or words[at] != words[at - 1]
            if begin == 0 or ((split or not splits) and self._begins_spaces(begin)):
                return _Boundary(at, begin, sure=splits or begin == 0)
            first_token = at
            first_word = at if split else first_word
        # A word longer than the limit on open text, perhaps a single token.
        last = len(starts) - 1
        at = next((at for at in (first_word, first_token, last) if at >= 0), 0)
        return _Boundary(at, starts[at] if starts else 0, sure=False)

    def _begins_spaces(self, at: int) -> bool:
        """Return whether white space begins at `at`."""
        return self._tail[at : at + 1].isspace() and not self._tail[at - 1 : at].isspace()
