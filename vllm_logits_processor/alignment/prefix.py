"""The text so far as expert tokens; an update costs only the tokenization of its tail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import msgspec

from vllm_logits_processor.alignment.open_text import OpenText, Tail, json_of, texts_of
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

#: A tail longer than this is shortened, if a safe cut is found...
_LONG = 384
#: ...that leaves at least this many bytes open.
_OPEN = 128
#: Bytes at the end of a text's tokens by which it is looked for among others.
_TELLING = 64


class TokenIds(Sequence[int]):
    """The tokens of a text, as their JSON until somebody reads them.

    A request to an expert is made of the JSON alone: a text's tokens are mostly those that it had a
    step before, so there is a long beginning that no step makes anew.

    Parameters
    ----------
    begins : bytes
        JSON of the first tokens, with a comma after each.
    ends : sequence of int
        The tokens after them.
    ends_json : bytes, optional
        The same as JSON, where that is known.
    """

    __slots__ = ("_begins", "_ends", "_ends_json", "_ids")

    def __init__(self, begins: bytes, ends: Sequence[int], ends_json: bytes | None = None) -> None:
        self._begins, self._ends = begins, ends
        self._ends_json = json_of(ends) if ends_json is None else ends_json
        self._ids: list[int] | None = None

    @property
    def json(self) -> bytes:
        """The tokens as JSON, with a comma after each."""
        return self._begins + self._ends_json

    @property
    def key(self) -> tuple[int, bytes]:
        """What equal texts share, and few others: their length, and their end."""
        end = self._begins[-_TELLING:] + self._ends_json
        return len(self._begins) + len(self._ends_json), end[-_TELLING:]

    def followed_by(self, more: list[int]) -> TokenIds:
        """Return these tokens and `more`."""
        return TokenIds(self.json, more)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self._begins.count(b",") + len(self._ends)

    @overload
    def __getitem__(self, at: int) -> int: ...

    @overload
    def __getitem__(self, at: slice) -> list[int]: ...

    def __getitem__(self, at: int | slice) -> int | list[int]:
        """Return one token, or a list of some."""
        if at == -1 and self._ends:
            return self._ends[-1]
        return self._read()[at]

    def __iter__(self) -> Iterator[int]:
        """Iterate over the tokens."""
        return iter(self._read())

    def __eq__(self, other: object) -> bool:
        """Compare with tokens, in whatever sequence."""
        if isinstance(other, TokenIds):
            return self.json == other.json
        return self._read() == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return the tokens as text, for messages of tests."""
        return f"TokenIds({self._read()})"

    def _read(self) -> list[int]:
        if self._ids is None:
            self._ids = msgspec.json.decode(b"[%b]" % self.json[:-1], type=list[int])
        return self._ids


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
        self._texts = texts_of(vocabulary)
        #: The tokens of the front, as JSON with a comma after each.
        self._front = json_of(vocabulary.bos_ids if front is None else front)
        self._front_bytes = 0
        self._tail = b""
        self._encoded: Tail | None = None
        self._next_cut = _LONG

    @property
    def length(self) -> int:
        """Bytes of text so far."""
        return self._front_bytes + len(self._tail)

    @property
    def has_tokens(self) -> bool:
        """Whether there is any token, be it of the front."""
        return bool(self._front or (self._encoded or self._encode()).ids)

    def extend(self, data: bytes) -> None:
        """Append `data` to the text."""
        if data:
            encoded = self._encoded
            if encoded is None or not encoded.sure:
                self._tail += data
            elif self.vocabulary.splits_off(data, before=encoded.open.data):
                # The last word is settled too: a tail of one word recurs, one of two seldom does.
                self._front += encoded.json
                self._front_bytes += len(self._tail)
                self._tail = data
                self._next_cut = _LONG
            elif encoded.byte:
                self._front += encoded.final_json
                self._front_bytes += encoded.byte
                self._tail = encoded.open.data + data
                self._next_cut = _LONG
            else:
                self._tail += data
            self._encoded = None

    def branch(self, data: bytes) -> ExpertPrefix:
        """Return an independent copy with `data` appended."""
        copy = ExpertPrefix(self.vocabulary, ())
        copy._front = self._front
        copy._front_bytes = self._front_bytes
        copy._tail = self._tail
        copy._encoded = self._encoded
        copy._next_cut = self._next_cut
        copy.extend(data)
        return copy

    def token_ids(self) -> TokenIds:
        """Return the front and the expert's tokens of the whole text.

        They assume that a word follows: see `word_follows` of :meth:`ByteVocabulary.encode_words`.
        """
        tail = self._encoded or self._encode()
        return TokenIds(self._front, tail.ids, tail.json)

    def boundary(self) -> int:
        """Return the byte offset before which the tokens are final for any continuation.

        It is the beginning of the last word (spaces and what follows them) that the tokenizer
        splits off, at most 64 bytes from the end. If there is no such word, it is the beginning of
        a pre-token or of a token there, which is final in all but rare cases.
        """
        # Tokenize first: it may settle more of the text.
        byte = (self._encoded or self._encode()).byte
        return self._front_bytes + byte

    def open_text(self) -> OpenText:
        """Return what follows from the text after the boundary."""
        return (self._encoded or self._encode()).open

    def token_ids_to(self, offset: int) -> TokenIds:
        """Return the front and the expert's tokens of the first `offset` bytes.

        Raises
        ------
        ValueError
            `offset` is before the boundary or after the text.
        """
        inside = self._inside(offset)
        if inside == len(self._tail):
            return self.token_ids()
        tail = self._encode()
        behind = self._texts.ids(self._tail[tail.byte : inside], not self.boundary())
        return TokenIds(self._front + tail.final_json, behind)

    def tail(self, offset: int) -> bytes:
        """Return the text from byte `offset` on; see :meth:`token_ids_to` for the errors."""
        return self._tail[self._inside(offset) :]

    def _inside(self, offset: int) -> int:
        least = self._encode().byte
        inside = offset - self._front_bytes
        if not least <= inside <= len(self._tail):
            raise ValueError(
                f"The offset is {offset}; accepted are {self.boundary()} to {self.length}."
            )
        return inside

    def _encode(self) -> Tail:
        tail = self._encoded
        if tail is None:
            tail = self._texts.tail(self._tail, begins_text=not self._front_bytes)
            # What is before a sure boundary is settled when more follows.
            settles = tail.sure and tail.byte
            if len(self._tail) >= self._next_cut and not settles and self._fix_front(tail):
                tail = self._texts.tail(self._tail, begins_text=not self._front_bytes)
            self._encoded = tail
        return tail

    def _fix_front(self, tail: Tail) -> bool:
        limit = len(self._tail) - _OPEN
        for at in range(len(tail.ids) - 1, 0, -1):
            begin = tail.starts[at]
            if begin > limit or not self._begins_word(begin):
                continue
            front, rest = self._tail[:begin], self._tail[begin:]
            encoded, _ = self.vocabulary.encode_words(front, begins_text=not self._front_bytes)
            behind, _ = self.vocabulary.encode_words(rest, word_follows=True)
            if encoded == tail.ids[:at] and behind == tail.ids[at:]:
                # Built first, then adopted: a lack of memory leaves the text unchanged.
                self._front, self._tail = self._front + json_of(encoded), rest
                self._front_bytes += begin
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
