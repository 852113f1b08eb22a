"""Short plain texts, such as " water" or "(self)": their tokens without the whole tokenizer.

A tokenizer spends most of its time on finding the words of a text and on offsets that nobody reads.
For text of printable ASCII and patterns that are known, Python's own patterns find the same words,
and the tokenizer's model alone tells the tokens of a word, which recur.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer

from vllm_logits_processor.alignment.spelling import BYTE_TO_CHAR, Kind, steps_of

#: Longer texts are not worth it.
_LONGEST = 256
#: Added tokens that are looked for.
_MOST_ADDED = 64
#: Words whose tokens are kept.
_MOST_WORDS = 32_768

#: What is read here, where no letter, digit or white space is beyond ASCII. The other control
#: characters are white space to some patterns and not to others.
_PLAIN = re.compile(rb"[ -~\t\n\r]*")
#: Of a tokenizer without words, only this: its added tokens are tags and runs of white space.
_WORDS_ALONE = re.compile(rb" ?[!-;=-Z\\\]-~]+(?: [!-;=-Z\\\]-~]+)*")
#: What may be part of such a text.
_IN_WORDS = re.compile(rb"(?: ?[!-;=-Z\\\]-~])* ?")

#: One word to all known patterns.
_WORD = re.compile(rb" ?[A-Za-z]+")

#: What added tokens are no part of; and what begins with a word after one space.
_PROSE = re.compile(rb"[ -;=-Z\\\]-~]*")
_NEXT_WORD = re.compile(rb" [A-Za-z][A-Za-z ,.;:!?'()]*")

#: Patterns of tokenizers that split as Python does with those below, for plain text: GPT-2's, that
#: of Llama 3 and GPT-4, and Qwen2's.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LATER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}|"
    r" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_KNOWN = {_GPT2, _LATER.format(digits="{1,3}"), _LATER.format(digits="")}

_DIGITS = re.compile(rb"[0-9]|[^0-9]+")
_SPELLING = str.maketrans({chr(byte): BYTE_TO_CHAR[byte] for byte in b" \t\n\r"})

#: Normal forms of Unicode, which leave ASCII as it is.
_FORMS = frozenset({"NFC", "NFD", "NFKC", "NFKD"})


class PlainText:
    """Encodes plain texts as a tokenizer does.

    Parameters
    ----------
    encoder : tokenizers.Tokenizer
        As `mid_text_encoder` returns it.
    kind : {"byte-level", "sentencepiece", "wordpiece"}
    """

    def __init__(self, encoder: Tokenizer, kind: Kind) -> None:
        spec = json.loads(encoder.to_str())
        self._model = encoder.model
        self._tokens = lru_cache(maxsize=_MOST_WORDS)(self._new_tokens)
        self._added = [token["content"].encode() for token in spec["added_tokens"]]
        shared = frozenset.intersection(*map(frozenset, self._added)) if self._added else ()
        #: A byte that all added tokens have, such as "<"; None if there is none.
        self._mark: int | None = min(shared, default=None)
        self._patterns: list[re.Pattern[bytes]] = []
        self._spaces: str | None = None
        if spec["model"].get("type") != "BPE" or spec["model"].get("dropout"):
            self._reads = False
        elif kind == "byte-level":
            self._reads = self._reads_bytes(spec)
        else:
            self._reads = kind == "sentencepiece" and self._reads_pieces(spec)
        self._splits = bool(self._reads and self._patterns) and not any(
            map(_PROSE.fullmatch, self._added)
        )

    def encode(self, data: bytes) -> tuple[list[int], list[int]] | None:
        """Return the tokens of a text, and the number of each one's word; None if not plain."""
        if not self._reads or len(data) > _LONGEST:
            return None
        if self._splits and _WORD.fullmatch(data):
            ids = self._tokens(data)
            return ids[:], [0] * len(ids)
        if self._spaces is not None:
            if not _WORDS_ALONE.fullmatch(data):
                return None
            words = [data]
        else:
            if not _PLAIN.fullmatch(data):
                return None
            if self._may_have_added(data):
                return None
            words = self._words(data)
        found: list[int] = []
        of_word: list[int] = []
        for number, word in enumerate(words):
            ids = self._tokens(word)
            found += ids
            of_word += [number] * len(ids)
        return found, of_word

    def splits_off(self, data: bytes, *, before: bytes) -> bool:
        """Return whether `data` after `before` has its own tokens, and so has `before`.

        All known patterns split a word off, with the space before it, from what is no space.
        """
        return (
            self._splits
            and _NEXT_WORD.fullmatch(data) is not None
            and not before.endswith(b" ")
            and _PROSE.fullmatch(before) is not None
        )

    def _may_have_added(self, data: bytes) -> bool:
        """Return whether an added token may be in `data`."""
        if self._mark is not None and self._mark not in data:
            return False
        return any(added in data for added in self._added)

    def _words(self, data: bytes) -> list[bytes]:
        first, *others = self._patterns
        words = first.findall(data)
        for pattern in others:
            words = [part for word in words for part in pattern.findall(word)]
        return words

    def _new_tokens(self, word: bytes) -> list[int]:
        text = word.decode()
        if self._spaces or text.isprintable():
            text = text.replace(" ", self._spaces or BYTE_TO_CHAR[ord(" ")])
        else:
            text = text.translate(_SPELLING)
        return [token.id for token in self._model.tokenize(text)]

    def _reads_bytes(self, spec: dict[str, Any]) -> bool:
        """Find the patterns of a byte-level tokenizer; return whether all it does is known."""
        if any(
            step["type"] not in _FORMS for step in steps_of(spec["normalizer"], key="normalizers")
        ):
            return False
        for step in steps_of(spec["pre_tokenizer"], key="pretokenizers"):
            pattern = step.get("pattern", {}).get("Regex")
            if step["type"] == "Digits" and step["individual_digits"]:
                self._patterns.append(_DIGITS)
            elif step["type"] == "ByteLevel":
                if step["use_regex"]:
                    self._patterns.append(_for_plain_text(_GPT2))
            elif pattern in _KNOWN and step["behavior"] == "Isolated" and not step["invert"]:
                self._patterns.append(_for_plain_text(pattern))
            else:
                return False
        return bool(self._patterns) and len(self._added) <= _MOST_ADDED

    def _reads_pieces(self, spec: dict[str, Any]) -> bool:
        """Return whether all that a sentencepiece tokenizer does is to replace spaces."""
        normalizers = steps_of(spec["normalizer"], key="normalizers")
        if [step["type"] for step in normalizers] != ["Replace"]:
            return False
        spaces = self._spaces = normalizers[0]["content"]
        # A split at spaces that have been replaced does nothing.
        splits = steps_of(spec["pre_tokenizer"], key="pretokenizers")
        return (
            normalizers[0]["pattern"] == {"String": " "}
            and spaces != " "
            and all(split.get("pattern") == {"String": " "} for split in splits)
            and not any(
                _IN_WORDS.fullmatch(each.replace(spaces.encode(), b" ")) for each in self._added
            )
        )


def _for_plain_text(pattern: str) -> re.Pattern[bytes]:
    """Return a pattern with classes that are the same for plain text."""
    plain = pattern.replace(r"[^\s\p{L}\p{N}]", r"[^\sA-Za-z0-9]")
    plain = plain.replace(r"[^\r\n\p{L}\p{N}]", r"[^\r\nA-Za-z0-9]")
    plain = plain.replace(r"\p{L}", "[A-Za-z]").replace(r"\p{N}", "[0-9]")
    return re.compile(plain.encode())
