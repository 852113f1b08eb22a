"""Tells values that were generated from words, placeholders and expressions of a program."""

import math
import re
from collections import Counter

# What stands in documentation and templates where a secret would be.
_PLACEHOLDER = re.compile(
    r"(?:[\W_]*(?:x|y|\d)?[xX*.•…_?#=-]{3,}.{0,4}"
    r"|.{0,24}(?:xxxx|\*\*\*|\.\.\.|0000000|…).{0,80}"
    r"|[<{\[%$].*|.*[>}\]]|.*\$\{.*"
    r"|(?:.*[_-])?(?:your|insert|replace|change[_-]?(?:me|this|it)|placeholder|dummy|redacted|todo|fake|sample"
    r"|put[_-]|enter[_-]|some[_-]|the[_-]|my[_-]?(?:secret|pass|token|key|api|super|db|new|user)).*"
    r"|.*[_-](?:here|goes[_-]here|placeholder|value))",
    re.IGNORECASE | re.DOTALL,
)
_HUMPS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_LONGEST_WORD = 15
_RUNS = re.compile(r"[a-z]+|[A-Z]+|\d+")
_HEX = re.compile(r"(?:0x)?[0-9a-fA-F]+")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

# Bits per character: English words have less than random letters of the same length.
_KEY_ENTROPY = 3.2
_SHORT_ENTROPY = 2.4
_LETTERS_ENTROPY = 3.6
_LONGEST_RUN = 2.6


def entropy(value: str) -> float:
    """Return the bits per character of a non-empty text by its own frequencies (Shannon)."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)


def is_placeholder(value: str) -> bool:
    """Return whether a value stands for another: "xxxx", "<token>", "$TOKEN", "your-key-here"."""
    return _PLACEHOLDER.fullmatch(value) is not None


def is_wordy(value: str) -> bool:
    """Return whether a value is put together from words: a name of a program, or a path."""
    pieces = _HUMPS.findall(value)
    words = [piece for piece in pieces if piece.isalpha()]
    return (
        len(pieces) > 1
        and all(len(piece) <= (_LONGEST_WORD if piece.isalpha() else 2) for piece in pieces)
        and len(words) * 2 > len(pieces)
        and sum(map(len, words)) >= 4 * len(words)
    )


def is_generated(value: str, *, named: bool) -> bool:
    """Return whether a value looks like a key that a program made.

    Parameters
    ----------
    named : bool
        Whether a word beside it says that it is one. Then a shorter one counts, and a UUID.
    """
    digits = sum(map(str.isdigit, value))
    letters = sum(map(str.isalpha, value))
    if is_placeholder(value) or is_wordy(value) or letters < 2:
        return False
    if _UUID.fullmatch(value):
        return named
    if _HEX.fullmatch(value):
        least = 12 if named else 32
        return digits >= 2 and len(value) >= least and entropy(value) >= _SHORT_ENTROPY
    if digits >= 2:
        least = 10 if named else 16
        return len(value) >= least and entropy(value) >= (
            _KEY_ENTROPY if len(value) >= 16 else _SHORT_ENTROPY
        )
    runs = _RUNS.findall(value)
    return (
        len(value) >= 20
        and sum(map(len, runs)) <= _LONGEST_RUN * len(runs)
        and entropy(value) >= _LETTERS_ENTROPY
    )
