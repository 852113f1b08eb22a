"""Reads from tokenizer.json how tokenizers spell bytes, and handles bytes that are not text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

from tokenizers import Tokenizer

from floe_plugins.errors import FloeError

Kind = Literal["byte-level", "sentencepiece", "wordpiece"]

ACCEPTED = "byte-level BPE, sentencepiece with byte fallback, and WordPiece"

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_METASPACE = "\u2581"

#: The most likely completion of a character; its kind decides where words are split.
_LIKELY = {
    start: char
    for char in ("°", "€", "’", "😀")
    for start in (char.encode()[:length] for length in range(1, len(char.encode())))
}


class TokenizerError(FloeError):
    """A tokenizer cannot be used; the message has its name and the reason."""


def _byte_level_alphabet() -> dict[str, int]:
    """Return the printable stand-in of each byte in byte-level BPE (GPT-2), as char to byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    missing = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(256 + place): byte for place, byte in enumerate(missing)})
    return alphabet


CHAR_TO_BYTE = _byte_level_alphabet()
BYTE_TO_CHAR = {byte: char for char, byte in CHAR_TO_BYTE.items()}


def valid_and_rest(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Split `data` into (valid UTF-8 text, invalid bytes after it) pairs, in order."""
    while data:
        try:
            yield data.decode("utf-8"), b""
            return
        except UnicodeDecodeError as error:
            yield data[: error.start].decode("utf-8"), data[error.start : error.end]
            data = data[error.end :]


def completed(start: bytes) -> bytes | None:
    """Return a likely character (UTF-8) that begins with `start`, or None."""
    if start in _LIKELY:
        return _LIKELY[start].encode()
    # After E0, F0 and F4 not every continuation byte is valid; all of them take one of these.
    for second in (b"\x80", b"\x90", b"\xa0"):
        for length in range(3):
            char = start + (second + 2 * b"\x80")[:length]
            try:
                if len(char.decode("utf-8")) == 1:
                    return char
            except UnicodeDecodeError:
                continue
    return None


def kind_of(spec: dict[str, Any], *, name: str) -> Kind:
    """Return the family of a tokenizer; refuse those that do not spell bytes.

    Parameters
    ----------
    spec : dict
        The tokenizer.json, parsed; likewise below.
    name : str
        The user's name for the tokenizer.

    Raises
    ------
    TokenizerError
        It does not spell bytes; the message names the tokenizer, its model and its decoder.
    """
    model = spec["model"]
    steps = {step["type"] for step in steps_of(spec["decoder"], key="decoders")}
    if "ByteLevel" in steps:
        return "byte-level"
    if model.get("byte_fallback") or "ByteFallback" in steps:
        return "sentencepiece"
    if model.get("type") == "WordPiece" and model.get("continuing_subword_prefix"):
        return "wordpiece"
    raise TokenizerError(
        f"The tokenizer of {name!r} ({model.get('type')} with decoder "
        f"{', '.join(sorted(steps)) or 'none'}) does not spell bytes; Floe takes {ACCEPTED}."
    )


def speller(kind: Kind, spec: dict[str, Any], encoder: Tokenizer) -> Callable[[str], bytes]:
    """Return a function from a token of the vocabulary to the bytes that it adds to a text.

    Parameters
    ----------
    encoder : tokenizers.Tokenizer
        The result of `mid_text_encoder` for `spec`; WordPiece needs it for `stands_alone`.
    """
    if kind == "byte-level":
        return _byte_level_bytes
    if kind == "sentencepiece":
        return _sentencepiece_bytes
    prefix = str(spec["model"]["continuing_subword_prefix"])

    def wordpiece_bytes(token: str) -> bytes:
        if token.startswith(prefix) and token != prefix:
            return token[len(prefix) :].encode()
        # Punctuation and Chinese characters are always words of their own.
        alone = stands_alone(encoder, token)
        return token.encode() if alone else b" " + token.encode()

    return wordpiece_bytes


def stands_alone(encoder: Tokenizer, text: str) -> bool:
    """Return whether `text` is split from letters before and after it."""
    return len(words_of(encoder, f"a{text}a")) > 2


def words_of(encoder: Tokenizer, text: str) -> list[str]:
    """Return the words (pre-tokens) of `text`."""
    if encoder.normalizer is not None:
        text = encoder.normalizer.normalize_str(text)
    if encoder.pre_tokenizer is None:
        return [text]
    return [word for word, _ in encoder.pre_tokenizer.pre_tokenize_str(text)]


def continued_word(encoder: Tokenizer, text: str) -> tuple[list[int], str]:
    """Tokenize the end of a word at the beginning of `text`, as WordPiece does within a word.

    Returns
    -------
    tuple of (list of int, str)
        The tokens, none if the word has no spelling, and the text after the word.
    """
    end = next((at for at, char in enumerate(text) if char.isspace()), len(text))
    end = next((at for at in range(end) if stands_alone(encoder, text[at])), end)
    prefix: str = encoder.model.continuing_subword_prefix
    ids: list[int] = []
    word = "".join(words_of(encoder, text[:end]))
    while word:
        for length in range(len(word), 0, -1):
            token = encoder.token_to_id(prefix + word[:length])
            if token is not None:
                ids.append(token)
                word = word[length:]
                break
        else:
            # As WordPiece does: one unknown part makes the whole word unknown.
            return [], text[end:]
    return ids, text[end:]


def steps_of(component: dict[str, Any] | None, *, key: str) -> list[dict[str, Any]]:
    """Flatten a normalizer, pre-tokenizer or decoder of a tokenizer.json into its steps."""
    if component is None:
        return []
    if component["type"] == "Sequence":
        return [step for part in component[key] for step in steps_of(part, key=key)]
    return [component]


def mid_text_encoder(spec: dict[str, Any]) -> Tokenizer:
    """Rebuild the tokenizer so that it encodes any text as it would inside a longer one."""
    spec = {**spec, "post_processor": None}
    spec["truncation"] = spec["padding"] = None
    # A special token's spelling in a text stays text: users must not be able to write one.
    special = {token["id"] for token in spec["added_tokens"] if token["special"]}
    spec["added_tokens"] = [token for token in spec["added_tokens"] if not token["special"]]
    spec["model"] = _without_spellings(spec["model"], special)
    for component, key in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
        kept = []
        for step in steps_of(spec[component], key=key):
            if step["type"] == "Prepend":
                continue
            if step["type"] == "Metaspace":
                step = {**step, "prepend_scheme": "never"}
            if step["type"] == "ByteLevel":
                step = {**step, "add_prefix_space": False}
            kept.append(step)
        spec[component] = {"type": "Sequence", key: kept} if kept else None
    return Tokenizer.from_str(json.dumps(spec))


def _without_spellings(model: dict[str, Any], special: set[int]) -> dict[str, Any]:
    """Rename special tokens inside the model so that no text holds them: unigram matches them."""

    def renamed(token: str, token_id: int) -> str:
        return f"\U0010fffe{token_id}" if token_id in special else token

    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        entries = [[renamed(token, at), score] for at, (token, score) in enumerate(vocabulary)]
        return {**model, "vocab": entries}
    names = {token: renamed(token, token_id) for token, token_id in vocabulary.items()}
    unknown = model.get("unk_token")
    # A BPE whose unknown token is not in its vocabulary has none; WordPiece must name one.
    absent = unknown if model["type"] == "WordPiece" else None
    return {
        **model,
        "vocab": {names[token]: token_id for token, token_id in vocabulary.items()},
        "unk_token": names.get(unknown, absent),
    }


def _byte_level_bytes(token: str) -> bytes:
    if all(char in CHAR_TO_BYTE for char in token):
        return bytes(CHAR_TO_BYTE[char] for char in token)
    return token.encode()


def _sentencepiece_bytes(token: str) -> bytes:
    if match := _BYTE_TOKEN.fullmatch(token):
        return bytes([int(match.group(1), 16)])
    return token.replace(_METASPACE, " ").encode()
