"""Payment card numbers: issuer prefix, length and check digit (ISO/IEC 7812-1)."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

from floe_plugins.gate.detector import Span

# Digits in groups, with at most two separators between them.
_RUN = re.compile(r"\d++(?:[ \t\n.,/_-]{1,2}+\d++)*+")
_GROUP = re.compile(r"\d++")

_LENGTHS = range(12, 20)

# First digits (low, high) and the lengths that issuers use with them.
_ISSUERS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("4", "4", (13, 16, 19)),  # Visa
    ("51", "55", (16,)),  # Mastercard
    ("2221", "2720", (16,)),  # Mastercard
    ("34", "34", (15,)),  # American Express
    ("37", "37", (15,)),  # American Express
    ("300", "305", (14, 16)),  # Diners Club
    ("36", "36", (14, 16)),  # Diners Club
    ("38", "39", (14, 16)),  # Diners Club
    ("3528", "3589", (16, 17, 18, 19)),  # JCB
    ("2131", "2131", (15,)),  # JCB
    ("1800", "1800", (15,)),  # JCB
    ("6011", "6011", (16, 17, 18, 19)),  # Discover
    ("644", "659", (16, 17, 18, 19)),  # Discover
    ("60", "60", (16,)),  # RuPay
    ("81", "82", (16, 17, 18, 19)),  # RuPay, UnionPay
    ("62", "62", (16, 17, 18, 19)),  # UnionPay
    ("2200", "2205", (16, 17, 18, 19)),  # Mir
    ("50", "50", (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    ("56", "58", (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    ("63", "63", (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    ("67", "67", (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
)

_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


class CardDetector:
    """Finds card numbers, whole or in groups, also with other numbers beside them."""

    name = "card"
    labels: Sequence[str] = ("CARD",)

    def detect(self, text: str) -> Sequence[Span]:
        """Return the card numbers of a text."""
        spans: list[Span] = []
        for run in _RUN.finditer(text):
            if run.end() - run.start() >= _LENGTHS.start:
                spans.extend(_cards(run))
        return spans


def luhn(digits: str) -> bool:
    """Tell whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        total += _DOUBLED[int(digit)] if place % 2 else int(digit)
    return total % 10 == 0


def _cards(run: re.Match[str]) -> Iterator[Span]:
    """Yield the windows of whole groups that are card numbers."""
    text = run.string
    groups = [group.span() for group in _GROUP.finditer(text, run.start(), run.end())]
    sizes = [end - start for start, end in groups]
    for first, last in _windows(sizes):
        digits = "".join(text[start:end] for start, end in groups[first:last])
        if _issued(digits) and luhn(digits):
            yield Span(groups[first][0], groups[last - 1][1], "CARD")


def _windows(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Yield ranges of groups that may be one number.

    People write cards in groups of three or more digits, the last one as short as need be, or
    digit by digit. Lists of small numbers are neither.
    """
    if len(sizes) in _LENGTHS and max(sizes) == 1:
        yield 0, len(sizes)
        return
    for first in range(len(sizes)):
        for last, digits in enumerate(accumulate(sizes[first : first + 7]), start=first + 1):
            if digits in _LENGTHS:
                yield first, last
            if digits >= _LENGTHS.stop or sizes[last - 1] < 3:
                break


def _issued(digits: str) -> bool:
    return len(digits) in _lengths(digits[:4])


@lru_cache(maxsize=10_000)
def _lengths(prefix: str) -> frozenset[int]:
    """Return the lengths of the numbers that are issued with four first digits."""
    return frozenset(
        length
        for low, high, lengths in _ISSUERS
        if low <= prefix[: len(low)] <= high
        for length in lengths
    )
