"""Features of words, and the rows of the table of weights that belong to them.

Training and detection use the same code. Features of one word are computed once per word; those of
several words are computed for all places of a text at once.

A word's code in the lexicon packs, from the lowest digit: first name (0-2), surname (0-2), place
(0-3), how common the word is in English (0-5), and whether it is used as a common word (0-1).
"""

import functools
import re
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeAlias
from zlib import crc32

import numpy as np
import numpy.typing as npt

FIRST, LAST, PLACE, COMMON, PLAIN = 1, 3, 9, 36, 216
"""The value of one step of each digit of a code."""


class Lexicon:
    """Codes of words by their hash.

    Parameters
    ----------
    hashes : array of uint32
        Ascending.
    codes : array of uint16
        As many.
    """

    def __init__(self, hashes: npt.NDArray[np.uint32], codes: npt.NDArray[np.uint16]) -> None:
        self.hashes = hashes
        self.codes = codes
        self._codes: dict[int, int] = dict(zip(hashes.tolist(), codes.tolist(), strict=True))

    def get(self, word: str, default: int = 0) -> int:
        """Return the code of a lower-case word, or the default."""
        return self._codes.get(key_of(word), default)

    @classmethod
    def of(cls, codes: dict[str, int]) -> "Lexicon":
        """Build a lexicon; of words with the same hash, the last one is kept."""
        by_hash = {key_of(word): code for word, code in sorted(codes.items())}
        hashes = sorted(by_hash)
        return cls(
            np.array(hashes, np.uint32), np.array([by_hash[key] for key in hashes], np.uint16)
        )


def key_of(word: str) -> int:
    """Return the hash of a word."""
    return crc32(word.encode())


Indices: TypeAlias = npt.NDArray[np.int64]
Hashes: TypeAlias = npt.NDArray[np.uint64]

BITS = 19
"""The table of weights has ``2**BITS`` rows."""

ROWS = 1 << BITS

OFFSETS = (0, -1, 1, -2, 2)
"""A word counts for the places at these distances before it: 0 is its own."""

PAIRS = 11
"""Rows per place that depend on several words."""

# Chinese and Japanese letters stand alone: no spaces say where their words end.
_TOKEN = re.compile(
    r"([\u3040-\u30ff\u3400-\u9fff]|[^\W\d_\u3040-\u30ff\u3400-\u9fff]+|\d+|\n+|[^\w\s]|_+)"
)

# The same for texts of ASCII alone, in half the time.
_ASCII_TOKEN = re.compile(r"([A-Za-z]+|[0-9]+|\n+|[!-/:-@\[-^`{-~\x00-\x08\x0e-\x1b\x7f]|_+)")

# Longer words are distinguished by their beginning, which bounds their cost.
_LETTERS = 32

_EDGE = "\x02"

# Multipliers that mix two or three identities into one row (odd, from the digits of the golden
# ratio and of square roots).
_MIX = tuple(
    np.uint64(number)
    for number in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)
)

# Distinguishes the pairs; the last but one is three kinds in a row.
_NUMBERS = np.arange(1, PAIRS + 1, dtype=np.uint64)[:, None]
_TRIPLE = PAIRS - 2


class Word:
    """The features of one word.

    Attributes
    ----------
    identity : int
        A hash of its lower-case form.
    kind : int
        Its shape and its code in the lexicon, as one number.
    ends_sentence : bool
        Whether the next word begins a sentence.
    hashes : list of list of int
        Per offset of `OFFSETS`, what `rows_of` turns into rows of the table of weights.
    """

    __slots__ = ("ends_sentence", "hashes", "identity", "kind")

    def __init__(self, word: str, lexicon: Lexicon | None) -> None:
        word = word[:_LETTERS]
        lower = word.lower()
        shape = _shape(word)
        code = lexicon.get(lower, 0) if lexicon is not None else 0
        self.identity = crc32(lower.encode())
        self.kind = code * 16 + shape
        self.ends_sentence = word[0] in ".!?:;\n\x02|>•" or word in ("-", '"', "“")
        whole, end = lower.encode(), lower[-3:].encode()
        written, listed = b"%d" % shape, b"%d" % code
        both = b"%d %d" % (code, shape)
        self.hashes = [
            _own_hashes(lower, whole, shape, code, lexicon is not None),
            [crc32(whole, 12), crc32(end, 13), crc32(written, 14), crc32(both, 15)],
            [crc32(whole, 28), crc32(end, 29), crc32(written, 30), crc32(both, 31)],
            [crc32(whole, 44), crc32(listed, 45)],
            [crc32(whole, 76), crc32(listed, 77)],
        ]


def rows_of(hashes: Sequence[int]) -> Indices:
    """Return the rows of the table of weights for hashes of words."""
    return np.array(hashes, np.int64) >> (32 - BITS)


def tokens(text: str) -> tuple[list[str], list[int]]:
    """Return the words, numbers and signs of a text, and where each begins."""
    # Gaps and words in turn, beginning with a gap: several times faster than a loop over matches.
    parts = (_ASCII_TOKEN if text.isascii() else _TOKEN).split(text)
    words = parts[1::2]
    ends = list(accumulate(map(len, parts)))
    return words, ends[0:-1:2]


def edge(lexicon: Lexicon) -> Word:
    """Return the borders before and after a text."""
    return Word(_EDGE, lexicon)


# The attributes of a word, in the order of the rows of an array: see `Word`.
_IDENTITY, _KIND, _ENDS = range(3)
# Two attributes of each pair, with the distance of the word whose attribute it is.
_PAIRED: tuple[tuple[tuple[int, int], tuple[int, int]], ...] = (
    ((_KIND, 0), (_KIND, -1)),
    ((_KIND, 0), (_KIND, 1)),
    ((_KIND, 0), (_IDENTITY, -1)),
    ((_KIND, 0), (_IDENTITY, 1)),
    ((_IDENTITY, -1), (_IDENTITY, 1)),
    ((_IDENTITY, -2), (_IDENTITY, -1)),
    ((_IDENTITY, 1), (_IDENTITY, 2)),
    ((_IDENTITY, 0), (_IDENTITY, -1)),
    ((_IDENTITY, 0), (_IDENTITY, 1)),
    ((_KIND, 0), (_KIND, -1)),
    ((_KIND, 0), (_ENDS, -1)),
)
# Of shape (2, pairs, 1): the rows, and the places relative to a word that has two before it.
_ATTRIBUTE, _AT = (
    np.array([[pair[side][part] for pair in _PAIRED] for side in (0, 1)])[..., None]
    for part in (0, 1)
)


def pair_rows(attributes: Hashes, *, capitals: int | None = None) -> Indices:
    """Return the rows that depend on several words.

    Parameters
    ----------
    attributes : Hashes
        Of shape (3, words + 4): identity, kind and ends_sentence of the words of one text, with two
        borders before and after it.
    capitals : int, optional
        How a text of which these words are a part uses capitals, see `use_of_capitals`.

    Returns
    -------
    Indices
        Of shape (`PAIRS`, words).
    """
    width = attributes.shape[1]
    places = _ATTRIBUTE * width + (_AT + 2) + np.arange(width - 4)
    first, second = attributes.take(places)
    kinds = attributes[_KIND]
    second[PAIRS - 1] += np.uint64(2 * (_regime(kinds[2:-2]) if capitals is None else capitals))
    first += _NUMBERS
    first *= _MIX[0]
    second += np.uint64(1)
    second *= _MIX[1]
    first ^= second
    first[_TRIPLE] ^= (kinds[3:-1] + np.uint64(1)) * _MIX[2]
    first *= _MIX[3]
    first >>= np.uint64(64 - BITS)
    rows: Indices = first.view(np.int64)
    return rows


def _regime(kinds: Hashes) -> int:
    shapes = np.bincount((kinds & np.uint64(15)).view(np.int64), minlength=4)
    return use_of_capitals(*shapes[1:4].tolist())


def use_of_capitals(lower: int, title: int, upper: int) -> int:
    """Classify a text's use of capitals: none, only, mostly at beginnings of words, or mixed.

    Parameters
    ----------
    lower, title, upper : int
        How many of its words have these shapes.
    """
    if not title and not upper:
        return 0
    if not title and not lower:
        return 1
    return 2 if title > lower else 3


@functools.lru_cache(maxsize=8192)
def shape(word: str) -> int:
    """Return a number for the shape of a word: 1 to 3 for lower case, a capital, only capitals."""
    return _shape(word[:_LETTERS])


def _shape(word: str) -> int:
    """Return a number for the shape of a word."""
    if word.isalpha():
        if word.islower():
            return 1
        if word.istitle():
            return 2 if len(word) > 1 else 4
        if word.isupper():
            return 3
        if word.lower() == word:
            return 5  # letters without case
        return 6 if word[0].isupper() else 7
    if word.isdigit():
        return 8 + min(len(word), 5) - 1
    if word.isspace():
        return 13
    return 14 if word in ".,!?;:" else 15


def _own_hashes(lower: str, whole: bytes, shape: int, code: int, known: bool) -> list[int]:
    hashes = [
        crc32(b"%d" % shape, 1),
        crc32(b"%d" % code, 2),
        crc32(b"%d %d" % (code, shape), 3),
    ]
    if known or not lower[0].isalpha():
        hashes.append(crc32(whole, 4))
    if not lower[0].isalpha():
        return hashes
    if len(whole) == len(lower):
        marked = b"^%b$" % whole
        hashes += [crc32(marked[i : i + 3], 5) for i in range(len(marked) - 2)]
        hashes += [crc32(marked[:size], 6) for size in (2, 4, 5)]
        hashes += [crc32(marked[-size:], 7) for size in (2, 4, 5)]
    else:
        # Parts of words consist of whole letters, which take several bytes here.
        letters = f"^{lower}$"
        hashes += [crc32(letters[i : i + 3].encode(), 5) for i in range(len(letters) - 2)]
        hashes += [crc32(letters[:size].encode(), 6) for size in (2, 4, 5)]
        hashes += [crc32(letters[-size:].encode(), 7) for size in (2, 4, 5)]
    hashes.append(crc32(b"%d %d" % (min(len(lower), 9), shape), 8))
    return hashes
