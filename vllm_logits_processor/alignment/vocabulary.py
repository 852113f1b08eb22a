"""A tokenizer seen as bytes: what each token adds to a text, and bytes as token ids."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from floe_plugins.errors import FloeError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_METASPACE = "\u2581"


class TokenizerError(FloeError):
    """A tokenizer that cannot be taken, with its name and the reason."""


def _byte_level_alphabet() -> dict[str, int]:
    """Return the printable stand-in of each byte in byte-level BPE (GPT-2), as char to byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    missing = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(256 + place): byte for place, byte in enumerate(missing)})
    return alphabet


_CHAR_TO_BYTE = _byte_level_alphabet()
_BYTE_TO_CHAR = {byte: char for char, byte in _CHAR_TO_BYTE.items()}


def valid_and_rest(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Split `data` into (valid UTF-8 text, invalid bytes after it) pairs, in order."""
    while data:
        try:
            yield data.decode("utf-8"), b""
            return
        except UnicodeDecodeError as error:
            yield data[: error.start].decode("utf-8"), data[error.start : error.end]
            data = data[error.end :]


@dataclass(frozen=True, kw_only=True)
class ByteVocabulary:
    """One tokenizer, on bytes.

    Build it with :meth:`from_pretrained`. Token ids are those of the tokenizer; rows of logits that
    are longer (vocabularies padded for the hardware) have no tokens at their end.

    Attributes
    ----------
    name : str
        What the user called the tokenizer, for messages.
    token_bytes : tuple of (bytes or None), length = vocabulary size
        What each token adds to a text; None for special tokens and holes, which add nothing.
    end_ids : frozenset of int
        Tokens that end a turn or a text.
    bos_ids : tuple of int
        Tokens that the tokenizer puts in front of a text by itself.
    encoder : tokenizers.Tokenizer
        The tokenizer without special tokens, without templates and without a leading space of its
        own, so that encoding is that of the middle of a text.
    byte_level : bool
        True for byte-level BPE; False for sentencepiece with byte fallback.
    """

    name: str
    token_bytes: tuple[bytes | None, ...]
    end_ids: frozenset[int]
    bos_ids: tuple[int, ...]
    encoder: Tokenizer
    byte_level: bool

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
            If the tokenizer has no fast form, or is neither byte-level BPE nor sentencepiece with
            byte fallback.
        """
        from transformers import AutoTokenizer, GenerationConfig

        tokenizer = AutoTokenizer.from_pretrained(folder)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise TokenizerError(
                f"The tokenizer of {name or folder!r} has no fast (tokenizers) form; Floe takes "
                "byte-level BPE and sentencepiece with byte fallback in that form."
            )
        ends = {tokenizer.eos_token_id}
        try:
            configured = GenerationConfig.from_pretrained(folder).eos_token_id
        except OSError:  # A folder need not have a generation_config.json.
            configured = None
        ends.update(configured if isinstance(configured, list) else [configured])
        return cls.from_backend(
            backend,
            name=name or folder,
            end_ids=frozenset(int(end) for end in ends if end is not None),
            bos_ids=tuple(
                token for token in tokenizer("").input_ids if token == tokenizer.bos_token_id
            ),
        )

    @classmethod
    def from_backend(
        cls,
        backend: Tokenizer,
        *,
        name: str,
        end_ids: frozenset[int],
        bos_ids: tuple[int, ...] = (),
    ) -> ByteVocabulary:
        """Take a `tokenizers.Tokenizer`; see the class for the parameters and the errors."""
        spec = json.loads(backend.to_str())
        byte_level = _is_byte_level(spec, name=name)
        special = {token["id"] for token in spec["added_tokens"] if token["special"]} | end_ids
        added = {token["id"] for token in spec["added_tokens"]}
        size = 1 + max(backend.get_vocab(with_added_tokens=True).values())
        spell = _byte_level_bytes if byte_level else _sentencepiece_bytes
        table: list[bytes | None] = [None] * size
        for token, token_id in backend.get_vocab(with_added_tokens=True).items():
            if token_id in special:
                continue
            # Added tokens of a byte-level tokenizer are spelled as text, not in its alphabet.
            plain = byte_level and token_id in added
            table[token_id] = token.encode() if plain else spell(token)
        return cls(
            name=name,
            token_bytes=tuple(table),
            end_ids=end_ids,
            bos_ids=bos_ids,
            encoder=_mid_text_encoder(spec),
            byte_level=byte_level,
        )

    def __len__(self) -> int:
        """Return the number of token ids, holes included."""
        return len(self.token_bytes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all that alignment depends on; equal for equal tokenizers."""
        digest = hashlib.sha256(self.encoder.to_str().encode())
        digest.update(repr((self.token_bytes, sorted(self.end_ids))).encode())
        return digest.hexdigest()

    @cached_property
    def _byte_ids(self) -> tuple[int | None, ...]:
        """Token id of each of the 256 single bytes, None where the vocabulary lacks it."""
        spelling = _BYTE_TO_CHAR.get if self.byte_level else "<0x{:02X}>".format
        return tuple(self.encoder.token_to_id(str(spelling(byte))) for byte in range(256))

    def decode(self, token_ids: Sequence[int]) -> bytes:
        """Return the bytes that `token_ids` add to a text; special tokens add none."""
        size = len(self.token_bytes)
        return b"".join(self.token_bytes[token] or b"" for token in token_ids if 0 <= token < size)

    def encode(self, data: bytes) -> list[int]:
        """Tokenize bytes from the middle of a text: no special tokens, no leading space.

        Bytes that are not UTF-8, such as the first half of a character, become the tokenizer's
        byte tokens; a byte that the vocabulary lacks is left out.
        """
        ids: list[int] = []
        for text, rest in valid_and_rest(data):
            if text:
                ids.extend(self.encoder.encode(text, add_special_tokens=False).ids)
            ids.extend(self._encode_invalid(rest))
        return ids

    def first_tokens(self, pieces: Sequence[bytes]) -> list[int | None]:
        """Return the first token of each piece's tokenization, None where there is none."""
        texts: list[str] = []
        for piece in pieces:
            text, _ = next(valid_and_rest(piece), ("", b""))
            texts.append(text)
        encoded = self.encoder.encode_batch_fast(texts, add_special_tokens=False)
        firsts: list[int | None] = []
        for piece, encoding in zip(pieces, encoded, strict=True):
            ids = encoding.ids or self._encode_invalid(piece)
            firsts.append(ids[0] if ids else None)
        return firsts

    def _encode_invalid(self, data: bytes) -> list[int]:
        if self.byte_level and data:
            spelled = "".join(_BYTE_TO_CHAR[byte] for byte in data)
            return [token.id for token in self.encoder.model.tokenize(spelled)]
        ids = (self._byte_ids[byte] for byte in data)
        return [token_id for token_id in ids if token_id is not None]


def _is_byte_level(spec: dict[str, Any], *, name: str) -> bool:
    """Tell byte-level BPE from sentencepiece with byte fallback; refuse the rest."""
    steps = {step["type"] for step in _steps(spec["decoder"], key="decoders")}
    if "ByteLevel" in steps:
        return True
    if spec["model"].get("byte_fallback") or "ByteFallback" in steps:
        return False
    raise TokenizerError(
        f"The tokenizer of {name!r} ({spec['model'].get('type')} with decoder "
        f"{', '.join(sorted(steps)) or 'none'}) does not spell bytes; Floe takes byte-level BPE "
        "and sentencepiece with byte fallback."
    )


def _steps(component: dict[str, Any] | None, *, key: str) -> list[dict[str, Any]]:
    """Flatten a normalizer, pre-tokenizer or decoder of a tokenizer.json into its steps."""
    if component is None:
        return []
    if component["type"] == "Sequence":
        return [step for part in component[key] for step in _steps(part, key=key)]
    return [component]


def _mid_text_encoder(spec: dict[str, Any]) -> Tokenizer:
    """Rebuild the tokenizer so that it encodes any text as it would inside a longer one."""
    spec = copy.deepcopy(spec)
    spec["post_processor"] = None
    spec["truncation"] = spec["padding"] = None
    # A text that spells a special token is text: a user must not be able to write one.
    special = {token["id"] for token in spec["added_tokens"] if token["special"]}
    spec["added_tokens"] = [token for token in spec["added_tokens"] if not token["special"]]
    spec["model"] = _without_spellings(spec["model"], special)
    for component, key in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
        kept = []
        for step in _steps(spec[component], key=key):
            if step["type"] == "Prepend":
                continue
            if step["type"] == "Metaspace":
                step["prepend_scheme"] = "never"
            if step["type"] == "ByteLevel":
                step["add_prefix_space"] = False
            kept.append(step)
        spec[component] = {"type": "Sequence", key: kept} if kept else None
    return Tokenizer.from_str(json.dumps(spec))


def _without_spellings(model: dict[str, Any], special: set[int]) -> dict[str, Any]:
    """Rename special tokens inside the model to what no text holds; unigram would match them."""

    def renamed(token: str, token_id: int) -> str:
        return f"\U0010fffe{token_id}" if token_id in special else token

    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        entries = [[renamed(token, at), score] for at, (token, score) in enumerate(vocabulary)]
        return {**model, "vocab": entries}
    unknown: str = model.get("unk_token") or ""
    return {
        **model,
        "vocab": {renamed(token, token_id): token_id for token, token_id in vocabulary.items()},
        "unk_token": renamed(unknown, vocabulary[unknown]) if unknown in vocabulary else None,
    }


def _byte_level_bytes(token: str) -> bytes:
    if all(char in _CHAR_TO_BYTE for char in token):
        return bytes(_CHAR_TO_BYTE[char] for char in token)
    return token.encode()


def _sentencepiece_bytes(token: str) -> bytes:
    if match := _BYTE_TOKEN.fullmatch(token):
        return bytes([int(match.group(1), 16)])
    return token.replace(_METASPACE, " ").encode()
