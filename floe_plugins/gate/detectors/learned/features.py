"""Turns a text into tokens, and tokens into rows of the table of weights.

The same code serves training and detection. What depends on one word is computed once per word;
what depends on several is computed for all places of a text at once.
"""

import re
from collections.abc import Sequence
from typing import TypeAlias
from zlib import crc32

import numpy as np
import numpy.typing as npt

from floe_plugins.gate.detectors.learned.lexicon import Lexicon

Indices: TypeAlias = npt.NDArray[np.int64]

BITS = 19
"""The table of weights has ``2**BITS`` rows."""

ROWS = 1 << BITS

OFFSETS = (0, -1, 1, -2, 2)
"""A word speaks about the places at these distances before it: 0 is its own."""

PAIRS = 11
"""Rows per place that depend on several words."""

# Chinese and Japanese letters stand alone: no spaces say where their words end.
_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_\u3040-\u30ff\u3400-\u9fff]+|\d+|\n+|[^\w\s]|_+"
)

# Longer words are told apart by their beginning, which keeps their cost bounded.
_LETTERS = 32

_EDGE = "\x02"
_SPACES = "\n"

# Multipliers that mix two or three identities into one row (odd, from the digits of the golden
# ratio and of square roots).
_MIX = tuple(
    np.uint64(number)
    for number in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)
)


class Word:
    """What is known of one word.

    Attributes
    ----------
    identity : int
        A hash of its lower-case form.
    kind : int
        Its shape and what the lexicon says of it, as one number.
    ends_sentence : bool
        Whether the next word begins a sentence.
    rows : list of list of int
        Per offset of `OFFSETS`, rows of the table of weights.
    """

    __slots__ = ("ends_sentence", "identity", "kind", "rows")

    def __init__(self, word: str, lexicon: Lexicon | None) -> None:
        word = word[:_LETTERS]
        lower = word.lower()
        shape = _shape(word)
        code = lexicon.get(lower, 0) if lexicon is not None else 0
        self.identity = crc32(lower.encode())
        self.kind = code * 16 + shape
        self.ends_sentence = word[0] in ".!?:;\n\x02|>•" or word in ("-", '"', "“")
        known = lexicon is not None
        self.rows = [
            _own_rows(lower, shape, code, known),
            *(_near_rows(lower, shape, code, offset) for offset in (-1, 1)),
            *(_far_rows(lower, code, offset) for offset in (-2, 2)),
        ]


def tokens(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Return the words, numbers and signs of a text with where each begins and ends."""
    words, places = [], []
    for match in _TOKEN.finditer(text):
        words.append(match[0])
        places.append(match.span())
    return words, places


def edge(lexicon: Lexicon) -> Word:
    """Return what stands before and after a text."""
    return Word(_EDGE, lexicon)


def pair_rows(words: Sequence[Word], border: Word) -> Indices:
    """Return the rows that depend on several words.

    Parameters
    ----------
    words : sequence of Word
        The words of one text.
    border : Word
        What `edge` returned.

    Returns
    -------
    Indices
        Of shape (words, `PAIRS`).
    """
    padded = [border, border, *words, border, border]
    identity = np.array([word.identity for word in padded], np.uint64)
    kind = np.array([word.kind for word in padded], np.uint64)
    begins = np.array([word.ends_sentence for word in padded[1:-3]], np.uint64)
    word, before, after = identity[2:-2], identity[1:-3], identity[3:-1]
    own, left, right = kind[2:-2], kind[1:-3], kind[3:-1]
    regime = _regime(own & np.uint64(15))
    columns = (
        _mixed(1, own, left),
        _mixed(2, own, right),
        _mixed(3, own, before),
        _mixed(4, own, after),
        _mixed(5, before, after),
        _mixed(6, identity[:-4], before),
        _mixed(7, after, identity[4:]),
        _mixed(8, word, before),
        _mixed(9, word, after),
        _mixed(10, own, left, right),
        _mixed(11, own, begins + np.uint64(2) * regime),
    )
    return np.stack(columns, axis=1)


def _mixed(
    number: int,
    first: npt.NDArray[np.uint64],
    second: npt.NDArray[np.uint64],
    third: npt.NDArray[np.uint64] | None = None,
) -> Indices:
    with np.errstate(over="ignore"):
        mixed = (first + np.uint64(number)) * _MIX[0] ^ (second + np.uint64(1)) * _MIX[1]
        if third is not None:
            mixed ^= (third + np.uint64(1)) * _MIX[2]
        mixed *= _MIX[3]
    return (mixed >> np.uint64(64 - BITS)).astype(np.int64)


def _regime(shapes: npt.NDArray[np.uint64]) -> np.uint64:
    """Tell how a text uses capitals: not at all, only, mostly at beginnings of words, or mixed."""
    lower = int(np.count_nonzero(shapes == 1))
    title = int(np.count_nonzero(shapes == 2))
    upper = int(np.count_nonzero(shapes == 3))
    if not title and not upper:
        return np.uint64(0)
    if not title and not lower:
        return np.uint64(1)
    return np.uint64(2 if title > lower else 3)


def _shape(word: str) -> int:
    """Number the ways in which a word is written."""
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


def _row(salt: int, data: str) -> int:
    return crc32(data.encode(), salt) >> (32 - BITS)


def _own_rows(lower: str, shape: int, code: int, known: bool) -> list[int]:
    rows = [_row(1, f"{shape}"), _row(2, f"{code}"), _row(3, f"{code} {shape}")]
    if not lower[0].isalpha():
        return [*rows, _row(4, lower)]
    if known:
        rows.append(_row(4, lower))
    marked = f"^{lower}$"
    rows += [_row(5, marked[i : i + 3]) for i in range(len(marked) - 2)]
    rows += [_row(6, marked[:size]) for size in (2, 4, 5)]
    rows += [_row(7, marked[-size:]) for size in (2, 4, 5)]
    rows.append(_row(8, f"{min(len(lower), 9)} {shape}"))
    return rows


def _near_rows(lower: str, shape: int, code: int, offset: int) -> list[int]:
    salt = 20 + 8 * offset
    return [
        _row(salt, lower),
        _row(salt + 1, lower[-3:]),
        _row(salt + 2, f"{shape}"),
        _row(salt + 3, f"{code} {shape}"),
    ]


def _far_rows(lower: str, code: int, offset: int) -> list[int]:
    salt = 60 + 8 * offset
    return [_row(salt, lower), _row(salt + 1, f"{code}")]
