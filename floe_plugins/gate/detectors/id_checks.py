"""Check digits of national numbers: those of python-stdnum, and those that it lacks."""

from __future__ import annotations

import datetime
import functools
import importlib
import re
from collections.abc import Callable

from floe_plugins.gate.detectors.financial import luhn

_NO_DIGITS = re.compile(r"\D")


def _digits(number: str) -> list[int]:
    return [int(digit) for digit in _NO_DIGITS.sub("", number)]


def npi(number: str) -> bool:
    """Return whether a number is one of a US health care provider (45 CFR 162.406)."""
    return luhn("80840" + number)


def dea(number: str) -> bool:
    """Return whether the last digit of a registration with the US DEA is right."""
    *first, last = _digits(number)[-7:]
    return (sum(first[0::2]) + 2 * sum(first[1::2])) % 10 == last


def medicare(number: str) -> bool:
    """Return whether the ninth digit of an Australian Medicare card is right."""
    digits = _digits(number)
    weights = (1, 3, 7, 9, 1, 3, 7, 9)
    return sum(map(int.__mul__, weights, digits)) % 10 == digits[8]


def _sum_of_products(digits: list[int], weights: tuple[int, ...]) -> int:
    products = (digit * weight for digit, weight in zip(digits, weights, strict=True))
    return sum(sum(divmod(product, 10)) for product in products)


def _with_letter(text: str) -> list[int]:
    """Return the digits of a text, letters as two digits from A = 01."""
    return [
        int(digit)
        for character in text.upper()
        for digit in (character if character.isdigit() else f"{ord(character) - 64:02}")
    ]


def kvnr(number: str) -> bool:
    """Return whether the last digit of a German health insurance number is right."""
    digits = _with_letter(number)
    return _sum_of_products(digits[:-1], (1, 2) * 5) % 10 == digits[-1]


def rvnr(number: str) -> bool:
    """Return whether date and last digit of a German pension insurance number are right."""
    compact = number.replace(" ", "")
    digits = _with_letter(compact)
    weights = (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1)
    day, month = int(compact[2:4]), int(compact[4:6])
    return (
        1 <= day <= 81
        and 1 <= month <= 12
        and _sum_of_products(digits[:-1], weights) % 10 == digits[-1]
    )


def german_tax_number(number: str) -> bool:
    """Return whether a number is written as tax offices do or, unseparated, has right digits."""
    return "/" in number or (len(number) in (10, 11, 13) and check_of("de.stnr")(number))


def hetu(number: str) -> bool:
    """Return whether the control character of a Finnish identity code is right (modulus 31)."""
    number = number.upper()
    try:
        datetime.date(2000 + int(number[4:6]), int(number[2:4]), int(number[:2]))
    except ValueError:
        # The 29th of February of 1900 was none, and nobody who was born then has a code.
        return False
    return number[10] == "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(number[:6] + number[7:10]) % 31]


def rrn_date(number: str) -> bool:
    """Return whether a Korean number has a date; since 2020 the last digit is no check digit."""
    digits = _NO_DIGITS.sub("", number)
    century = 1900 if digits[6] in "1256" else 2000
    try:
        datetime.date(century + int(digits[:2]), int(digits[2:4]), int(digits[4:6]))
    except ValueError:
        return False
    return True


def snils(number: str) -> bool:
    """Return whether the last two digits of a Russian insurance number are right."""
    digits = _digits(number)
    total = sum(digit * weight for digit, weight in zip(digits, range(9, 0, -1), strict=False))
    return total % 101 % 100 == digits[9] * 10 + digits[10]


_OWN: dict[str, Callable[[str], bool]] = {
    "npi": npi,
    "dea": dea,
    "medicare": medicare,
    "kvnr": kvnr,
    "rvnr": rvnr,
    "tax number": german_tax_number,
    "hetu": hetu,
    "rrn date": rrn_date,
    "snils": snils,
}


@functools.cache
def check_of(name: str) -> Callable[[str], bool]:
    """Return the check of a name: a module below `stdnum`, or one of this file."""
    if name in _OWN:
        return _OWN[name]
    check: Callable[[str], bool] = importlib.import_module(f"stdnum.{name}").is_valid
    return check
