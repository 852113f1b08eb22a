"""A tokenizer on bytes: the bytes that each token adds to a text, and the token ids of bytes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from floe_plugins.errors import first_line
from floe_plugins.models.resolver import TOKENIZER_FILES
from vllm_logits_processor.alignment.chat_template import ChatTemplate
from vllm_logits_processor.alignment.ends import EndOfTurn, end_of_turn
from vllm_logits_processor.alignment.plain_text import PlainText
from vllm_logits_processor.alignment.spelling import (
    ACCEPTED,
    BYTE_TO_CHAR,
    Kind,
    TokenizerError,
    completed,
    continued_word,
    kind_of,
    mid_text_encoder,
    speller,
    valid_and_rest,
)
from vllm_logits_processor.arrays import TokenArray

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def why_not_loaded(name: str, error: BaseException) -> str:
    """Return why transformers could not load a tokenizer; no full stop at the end.

    Parameters
    ----------
    name : str
        The folder or hub id.
    error : BaseException
        The error of transformers, which for a missing folder reports an unreachable hub.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not any((folder / file).is_file() for file in TOKENIZER_FILES):
            wanted = ", ".join(TOKENIZER_FILES)
            return f"the folder {folder.absolute()} has no tokenizer in it (none of {wanted})"
        return first_line(error).rstrip(".")
    said = first_line(error).rstrip(".")
    if any(os.environ.get(each, "").lower() in ("1", "true", "yes", "on") for each in _OFFLINE):
        hub = "the hub's cache of this machine has no model of that name, and the hub is switched "
        hub += "off (HF_HUB_OFFLINE)"
    elif "couldn't connect" in said.lower():
        hub = "the hub, where it could be a model's id, cannot be reached"
    else:
        hub = f"the hub says: {said}"
    return f"there is no folder {folder.absolute()}, and {hub}"


__all__ = ["ByteVocabulary", "TokenizerError"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class ByteVocabulary:
    """One tokenizer, on bytes.

    Build it with :meth:`from_pretrained`. Token ids are those of the tokenizer; longer rows of
    logits (vocabularies padded for the hardware) have no tokens at their end.

    Attributes
    ----------
    name : str
        The user's name for the tokenizer, for messages.
    token_bytes : tuple of (bytes or None), length = vocabulary size
        The bytes that each token adds to a text; None for special tokens and unused ids, which add
        nothing. Tokens of WordPiece that begin a word begin with a space.
    end_ids : frozenset of int
        Tokens that end a turn or a text.
    bos_ids : tuple of int
        Tokens that the tokenizer itself puts before a text.
    encoder : tokenizers.Tokenizer
        The tokenizer without special tokens, without templates and without a leading space of its
        own: it encodes text as in the middle of a longer one.
    kind : {"byte-level", "sentencepiece", "wordpiece"}
        How its tokens spell bytes.
    fingerprint : str
        SHA-256 over all that alignment depends on; equal for equal tokenizers.
    template : ChatTemplate or None
        Its chat template, if it has one. Not in the fingerprint.
    ends : EndOfTurn or None
        The sources of `end_ids`, if they were read from a model's files. Not in the fingerprint.
    """

    name: str
    token_bytes: tuple[bytes | None, ...] = field(repr=False)
    end_ids: frozenset[int]
    bos_ids: tuple[int, ...]
    encoder: Tokenizer = field(repr=False)
    kind: Kind
    fingerprint: str = field(repr=False)
    template: ChatTemplate | None = field(default=None, repr=False)
    ends: EndOfTurn | None = field(default=None, repr=False)

    @classmethod
    def from_pretrained(cls, folder: str, *, name: str | None = None) -> ByteVocabulary:
        """Read the tokenizer of a model.

        Parameters
        ----------
        folder : str
            A model folder or hub id, as `floe_plugins.models.resolve` returns it.
        name : str, optional
            The name for messages; `folder` if not given.

        Raises
        ------
        TokenizerError
            There is no tokenizer, it has no fast form, or its family does not spell bytes.
        """
        from transformers import AutoTokenizer

        if not Path(folder).is_dir():
            # Without access to the hub, transformers retries for most of a minute.
            logger.info("%r is no folder here: its tokenizer comes from the hub.", folder)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        # Errors of transformers for a missing or unreadable tokenizer.
        except (OSError, ValueError) as error:
            raise TokenizerError(
                f"The tokenizer of {name or folder!r} cannot be loaded: "
                f"{why_not_loaded(folder, error)}."
            ) from error
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise TokenizerError(
                f"The tokenizer of {name or folder!r} has no fast (tokenizers) form; Floe takes "
                f"{ACCEPTED} in that form."
            )
        # Tokenizers of the BERT family have it under another name.
        bos = tokenizer.cls_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        template = _template_of(tokenizer, backend)
        ends = end_of_turn(tokenizer, folder, name=name or folder, template=template)
        return cls.from_backend(
            backend,
            name=name or folder,
            end_ids=ends.ids,
            bos_ids=tuple(token for token in tokenizer("").input_ids if token == bos),
            template=template,
            ends=ends,
        )

    @classmethod
    def from_backend(
        cls,
        backend: Tokenizer,
        *,
        name: str,
        end_ids: frozenset[int],
        bos_ids: tuple[int, ...] = (),
        template: ChatTemplate | None = None,
        ends: EndOfTurn | None = None,
    ) -> ByteVocabulary:
        """Build a vocabulary from a `tokenizers.Tokenizer`.

        Parameters
        ----------
        backend : tokenizers.Tokenizer
            The original tokenizer.
        name, end_ids, bos_ids, template, ends
            See the class.

        Raises
        ------
        TokenizerError
            Its family does not spell bytes.
        """
        text = backend.to_str()
        spec = json.loads(text)
        kind = kind_of(spec, name=name)
        special = {token["id"] for token in spec["added_tokens"] if token["special"]} | end_ids
        added = {token["id"] for token in spec["added_tokens"]}
        size = 1 + max(backend.get_vocab(with_added_tokens=True).values())
        encoder = mid_text_encoder(spec)
        spell = speller(kind, spec, encoder)
        unknown = spec["model"].get("unk_token") if kind == "wordpiece" else None
        table: list[bytes | None] = [None] * size
        for token, token_id in backend.get_vocab(with_added_tokens=True).items():
            if token_id in special or token == unknown:
                continue
            # Added tokens are spelled as text, and only sentencepiece does so for all its tokens.
            plain = kind != "sentencepiece" and token_id in added
            table[token_id] = token.encode() if plain else spell(token)
        return cls(
            name=name,
            token_bytes=tuple(table),
            end_ids=end_ids,
            bos_ids=bos_ids,
            encoder=encoder,
            kind=kind,
            fingerprint=hashlib.sha256(f"{sorted(end_ids)}\n{text}".encode()).hexdigest(),
            template=template,
            ends=ends,
        )

    def __len__(self) -> int:
        """Return the number of token ids, unused ones included."""
        return len(self.token_bytes)

    def equals(self, other: ByteVocabulary) -> bool:
        """Return whether both are one tokenizer: no text of one ends inside the other's tokens."""
        return self.fingerprint == other.fingerprint

    @cached_property
    def by_bytes(self) -> TokenArray:
        """Tokens with bytes, sorted by their bytes; int32, shape (tokens,)."""
        spelled = [token for token, data in enumerate(self.token_bytes) if data]
        return np.array(sorted(spelled, key=lambda t: self.token_bytes[t] or b""), dtype=np.int32)

    @cached_property
    def ranks(self) -> TokenArray:
        """Place of each token in `by_bytes`, -1 without bytes; int32, shape (size,)."""
        ranks = np.full(len(self), -1, dtype=np.int32)
        ranks[self.by_bytes] = np.arange(len(self.by_bytes))
        return ranks

    @cached_property
    def _sorted_bytes(self) -> list[bytes]:
        return [self.token_bytes[token] or b"" for token in self.by_bytes.tolist()]

    def longer(self, data: bytes) -> tuple[int, int]:
        """Return begin and end in `by_bytes` of the longer tokens that begin with `data`."""
        begin = bisect_right(self._sorted_bytes, data)
        # The upper bound of all that begins with `data`: its last byte raised by one.
        kept = data.rstrip(b"\xff")
        if not kept:
            return begin, len(self._sorted_bytes)
        return begin, bisect_left(self._sorted_bytes, kept[:-1] + bytes([kept[-1] + 1]))

    def beginning_with(self, data: bytes) -> tuple[int, int]:
        """Return begin and end in `by_bytes` of the tokens that begin with `data`."""
        return bisect_left(self._sorted_bytes, data), self.longer(data)[1]

    def spelled(self, data: bytes) -> TokenArray:
        """Return the tokens whose bytes are `data`."""
        return self.by_bytes[self.beginning_with(data)[0] : self.longer(data)[0]]

    def make_tables(self) -> None:
        """Build now the tables that would otherwise be built at first use, in a request's step."""
        for table in (self.by_bytes, self.ranks, self._sorted_bytes):
            assert len(table) <= len(self)
        # So are the patterns for short texts.
        self.encode(b"a b")

    @cached_property
    def _plain(self) -> PlainText:
        return PlainText(self.encoder, self.kind)

    @cached_property
    def splits_words(self) -> bool:
        """True if a word never shares a token with the space or the words before it."""
        return len(set(self.encode_words(b"a b")[1])) > 1

    def splits_off(self, data: bytes, *, before: bytes) -> bool:
        """Return whether it is known that a text's next word shares no token with what is before.

        Then `data` after `before` has the tokens that it has by itself, and so has `before`.
        """
        return self._plain.splits_off(data, before=before)

    @cached_property
    def _byte_ids(self) -> tuple[int | None, ...]:
        """Token id of each of the 256 single bytes, None where the vocabulary lacks it."""
        spelling = BYTE_TO_CHAR.get if self.kind == "byte-level" else "<0x{:02X}>".format
        return tuple(self.encoder.token_to_id(str(spelling(byte))) for byte in range(256))

    def decode(self, token_ids: Sequence[int]) -> bytes:
        """Return the bytes that `token_ids` add to a text; special tokens add none."""
        table = self.token_bytes
        size = len(table)
        return b"".join([table[token] or b"" for token in token_ids if 0 <= token < size])

    def encode(self, data: bytes) -> list[int]:
        """Tokenize bytes as in the middle of a text: no special tokens, no leading space.

        Bytes that are not UTF-8, such as the first half of a character, become the tokenizer's
        byte tokens; a byte that the vocabulary lacks is left out.
        """
        return self.encode_words(data)[0]

    def encode_words(
        self, data: bytes, *, begins_text: bool = False, word_follows: bool = False
    ) -> tuple[list[int], list[int]]:
        """Tokenize as :meth:`encode` does, and number the words (pre-tokens).

        Parameters
        ----------
        begins_text : bool
            True if nothing is before `data`, so that its first word is whole. Only WordPiece
            needs this.
        word_follows : bool
            True if a word probably follows `data`. Patterns of the GPT-2 family then split off the
            last of several line feeds, and otherwise do not. (They split off the last of several
            spaces too, to make it the beginning of the word's own token.)

        Returns
        -------
        tuple of (list of int, list of int)
            Token ids, and for each the number of its word, ascending from 0.
        """
        if word_follows and self.is_split_before_words(data) and data[-1:] != b" ":
            ids, words = self.encode_words(data + b"a")
            if self.token_bytes[ids[-1]] == b"a":
                return ids[:-1], words[:-1]
        plain = self._plain.encode(data)
        if plain is not None:
            return plain
        ids = []
        words = []
        left = len(data)
        for text, rest in valid_and_rest(data):
            left -= len(text.encode()) + len(rest)
            # Only at the end of the text may a character still be completed.
            char = completed(rest) if rest and not left else None
            if char and self._encode_open(text, rest, char, ids, words):
                break
            goes_on = bool(ids) or not begins_text
            parts = (self._encode_text(text, goes_on=goes_on), self._encode_invalid(rest))
            for part, part_words in parts:
                offset = words[-1] + 1 if words else 0
                ids += part
                words += [offset + word for word in part_words]
        return ids, words

    def token_starts(self, data: bytes, ids: Sequence[int]) -> list[int]:
        """Return the byte offset in `data` at which each of its tokens `ids` begins.

        If the tokenizer changes the text (case, accents, kinds of space), a token begins where the
        one before it ends, so the space before it belongs to it.
        """
        pieces = [self.token_bytes[token] or b"" for token in ids]
        if b"".join(pieces) == data:
            return [0, *accumulate(map(len, pieces))][:-1]
        starts: list[int] = []
        begin = 0
        for text, rest in valid_and_rest(data):
            ends = [end for _, end in self.encoder.encode(text, add_special_tokens=False).offsets]
            before = [0, *accumulate(len(char.encode()) for char in text)]
            starts += [begin + before[end] for end in [0, *ends]][: len(ends)]
            starts += [begin + before[-1]] * len(self._encode_invalid(rest)[0])
            begin += before[-1] + len(rest)
        # The two encodings differ at most in an incomplete character.
        return (starts + [len(data)] * len(ids))[: len(ids)]

    def first_tokens(self, pieces: Sequence[bytes]) -> list[int | None]:
        """Return the first token of each piece's tokenization, or None.

        Parameters
        ----------
        pieces : sequence of bytes
            Each is tokenized by itself, as in the middle of a text and before a word.
        """
        texts: list[str] = []
        for piece in pieces:
            text, rest = next(valid_and_rest(piece), ("", b""))
            # These are rare, and their encoding is not just that of the text in front.
            special_case = (
                rest
                or (self.kind == "wordpiece" and not text[:1].isspace())
                or self.is_split_before_words(piece)
            )
            texts.append("" if special_case else text)
        encoded = self.encoder.encode_batch_fast(texts, add_special_tokens=False)
        firsts: list[int | None] = []
        for piece, encoding in zip(pieces, encoded, strict=True):
            ids = encoding.ids
            if not ids and self.is_split_before_words(piece):
                ids = self.encode(piece + b"a")
                if not piece.startswith(self.token_bytes[ids[0]] or b"a"):
                    ids = []
            ids = ids or self.encode(piece)
            firsts.append(ids[0] if ids else None)
        return firsts

    def is_split_before_words(self, data: bytes) -> bool:
        """Return whether `data` ends in several spaces that a following word splits."""
        return self.kind == "byte-level" and len(data) > 1 and data[-2:].isspace()

    def _encode_text(self, text: str, *, goes_on: bool) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        words: list[int] = []
        if self.kind == "wordpiece" and goes_on and text and not text[0].isspace():
            ids, text = continued_word(self.encoder, text)
            words = [0] * len(ids)
        if text:
            encoding = self.encoder.encode(text, add_special_tokens=False)
            offset = 1 if words else 0
            ids += encoding.ids
            words += [offset + (word or 0) for word in encoding.word_ids]
        return ids, words

    def _encode_open(
        self, text: str, rest: bytes, char: bytes, ids: list[int], words: list[int]
    ) -> bool:
        """Append the tokens of `text` and an incomplete character; False if that is not possible.

        Byte-level BPE may join its first bytes with those before them in the same word. Only a
        whole character, `char`, tells which word that is.
        """
        if self.kind != "byte-level":
            return False
        encoding = self.encoder.encode(text + char.decode(), add_special_tokens=False)
        in_front = encoding.word_ids.index(encoding.word_ids[-1])
        front = encoding.ids[:in_front]
        spelled = self.decode(front)
        data = text.encode() + rest
        if not data.startswith(spelled):
            return False
        tail = "".join(BYTE_TO_CHAR[byte] for byte in data[len(spelled) :])
        last = [token.id for token in self.encoder.model.tokenize(tail)]
        offset = words[-1] + 1 if words else 0
        ids += front + last
        words += [offset + (word or 0) for word in encoding.word_ids[:in_front]]
        words += [offset + (encoding.word_ids[-1] or 0)] * len(last)
        return True

    def _encode_invalid(self, data: bytes) -> tuple[list[int], list[int]]:
        if self.kind == "byte-level" and data:
            spelled = "".join(BYTE_TO_CHAR[byte] for byte in data)
            ids = [token.id for token in self.encoder.model.tokenize(spelled)]
        else:
            found = (self._byte_ids[byte] for byte in data)
            ids = [token_id for token_id in found if token_id is not None]
        return ids, [0] * len(ids)


def _template_of(tokenizer: Any, backend: Tokenizer) -> ChatTemplate | None:
    """Return the chat template of a transformers tokenizer, the default one of several."""
    source = tokenizer.chat_template
    if isinstance(source, dict):
        source = source.get("default")
    if not source:
        return None
    return ChatTemplate(source=source, named=dict(tokenizer.special_tokens_map), backend=backend)
