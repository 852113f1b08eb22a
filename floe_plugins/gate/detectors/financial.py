"""Numbers of payment cards and bank accounts, and addresses of crypto currencies."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

from floe_plugins.gate.detector import Span
from floe_plugins.gate.growing import LONG_WORD, Growing

# Digits in groups, with at most two separators between them.
_DIGIT_GROUPS = re.compile(r"\d++(?:[ \t\n.,/_-]{1,2}+\d++)*+")
_GROUP = re.compile(r"\d++")

_ANY_SPACE = str.maketrans("\t\n", "  ")

_CARD_LENGTHS = range(12, 20)

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
    """Finds card numbers, whole or in groups, also between other numbers."""

    name = "card"
    labels: Sequence[str] = ("CARD",)
    #: Characters before new text that may take part in a new finding.
    reach = 128

    def detect(self, text: str) -> Sequence[Span]:
        """Return the card numbers of a text."""
        spans: list[Span] = []
        for run in _DIGIT_GROUPS.finditer(text):
            if run.end() - run.start() >= _CARD_LENGTHS.start:
                spans.extend(_cards(run))
        return spans

    def may_find(self, grown: Growing) -> bool:
        """Return whether new text may make a finding: there is a digit in it or near it."""
        return grown.since_digit <= 8


def luhn(digits: str) -> bool:
    """Return whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
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
        if _issued(digits) and luhn(digits) and _is_one_number(text, groups[first:last]):
            yield Span(groups[first][0], groups[last - 1][1], "CARD")


def _is_one_number(text: str, groups: list[tuple[int, int]]) -> bool:
    """Return whether groups are written as one number, and not as several or as a decimal."""
    between = {text[left[1] : right[0]].translate(_ANY_SPACE) for left, right in pairwise(groups)}
    if len(between) > 1:
        return False
    start, end = groups[0][0], groups[-1][1]
    after_point = text[start - 1 : start] == "." and text[max(0, start - 2) : start - 1].isdigit()
    before_point = text[end : end + 1] == "." and text[end + 1 : end + 2].isdigit()
    # "0.4111111111111111" is a decimal, "1. 4111 1111 1111 1111" an item of a list.
    return len(groups) > 1 or not (after_point or before_point)


def _windows(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Yield ranges of groups that may be one number.

    People write cards digit by digit, or in groups of three or more digits with a shorter last
    one. Lists of small numbers are neither.
    """
    if len(sizes) in _CARD_LENGTHS and max(sizes) == 1:
        yield 0, len(sizes)
        return
    for first in range(len(sizes)):
        for last, digits in enumerate(accumulate(sizes[first : first + 7]), start=first + 1):
            if digits in _CARD_LENGTHS:
                yield first, last
            if digits >= _CARD_LENGTHS.stop or sizes[last - 1] < 3:
                break


def _issued(digits: str) -> bool:
    return len(digits) in _lengths(digits[:4])


@lru_cache(maxsize=10_000)
def _lengths(prefix: str) -> frozenset[int]:
    """Return the lengths of the card numbers that begin with four given digits."""
    return frozenset(
        length
        for low, high, lengths in _ISSUERS
        if low <= prefix[: len(low)] <= high
        for length in lengths
    )


# Number of characters per country, from the IBAN registry.
_IBAN_LENGTHS = {
    country: int(length)
    for length, countries in {
        "15": "NO",
        "16": "BE",
        "18": "DK FI FK FO GL NL SD",
        "19": "MK SI",
        "20": "AT BA EE KZ LT LU MN XK",
        "21": "CH HR LI LV",
        "22": "BG BH CR DE GB GE IE ME RS VA",
        "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG",
        "25": "LY PT ST",
        "26": "IS TR",
        "27": "BI DJ FR GR IT MC MR SM",
        "28": "AL AZ BY CY DO GT HN HU LB NI PL SV",
        "29": "BR EG PS QA UA",
        "30": "JO KW MU YE",
        "31": "MT SC",
        "32": "LC",
        "33": "RU",
    }.items()
    for country in countries.split()
}

_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}(?=[ \t-]?\d)")
_IBAN_BODIES = {
    length: re.compile(rf"(?:[ \t-]{{0,2}}[0-9A-Za-z]){{{length - 2}}}(?![0-9A-Za-z])")
    for length in set(_IBAN_LENGTHS.values())
}
_SEPARATORS = str.maketrans("", "", " \t-")


class IbanDetector:
    """Finds IBANs in either case, whole or in groups."""

    name = "iban"
    labels: Sequence[str] = ("IBAN",)
    #: Characters before new text that may take part in a new finding.
    reach = 128

    def detect(self, text: str) -> Sequence[Span]:
        """Return the IBANs of a text."""
        spans = []
        for start in _IBAN_START.finditer(text):
            length = _IBAN_LENGTHS.get(start[0].upper())
            body = _IBAN_BODIES[length].match(text, start.end()) if length else None
            if body is not None and iban_checks(start[0] + body[0]):
                spans.append(Span(start.start(), body.end(), "IBAN"))
        return spans

    def may_find(self, grown: Growing) -> bool:
        """Return whether new text may make a finding: there is a digit in it or near it."""
        return grown.since_digit <= 112


def iban_checks(iban: str) -> bool:
    """Return whether the two check digits of an IBAN are right (ISO 7064, MOD 97-10)."""
    plain = iban.translate(_SEPARATORS)
    if not plain[2:4].isdigit():
        return False
    # Base 36 gives letters the standard's values, A = 10 to Z = 35.
    digits = "".join(str(int(character, 36)) for character in plain[4:] + plain[:4])
    return int(digits) % 97 == 1


_BITCOIN = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_RIPPLE = "rpshnaf39wBUDNEGHJKLM4PQRST7VWXYZ2bcdeCg65jkm8oFqi1tuvAxyz"
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"

# First bytes of Base58Check addresses: Bitcoin, Litecoin, Dogecoin, Dash and Tron.
_VERSIONS = frozenset({0x00, 0x05, 0x30, 0x32, 0x1E, 0x16, 0x4C, 0x10, 0x41})

# Shorter than any address.
_LONG = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]{25}")
_BASE58 = re.compile(r"(?<![A-Za-z0-9])[13LMDA9X7Tr][1-9A-HJ-NP-Za-km-z]{24,34}(?![A-Za-z0-9])")
_SEGWIT = re.compile(
    r"(?<![A-Za-z0-9])(?:(?P<hrp>bc|tb|ltc)1[02-9ac-hj-np-z]{11,71}"
    r"|(?P<upper>BC|TB|LTC)1[02-9AC-HJ-NP-Z]{11,71})(?![A-Za-z0-9])"
)
_ETHEREUM = re.compile(r"(?<![A-Za-z0-9])0x[0-9a-fA-F]{40}(?![A-Za-z0-9])")
_MONERO = re.compile(r"(?<![A-Za-z0-9])[48][0-9AB][1-9A-HJ-NP-Za-km-z]{93}(?![A-Za-z0-9])")


class CryptoDetector:
    """Finds addresses of Bitcoin, Litecoin, Dogecoin, Dash, Tron, XRP, Ethereum and Monero."""

    name = "crypto"
    labels: Sequence[str] = ("CRYPTO",)
    #: Characters before new text that may take part in a new finding.
    reach = 128

    def detect(self, text: str) -> Sequence[Span]:
        """Return the addresses of a text."""
        if _LONG.search(text) is None:
            return []
        spans = [Span(*match.span(), "CRYPTO") for match in _ETHEREUM.finditer(text)]
        spans += [Span(*match.span(), "CRYPTO") for match in _MONERO.finditer(text)]
        for match in _BASE58.finditer(text):
            if base58_checks(match[0]):
                spans.append(Span(*match.span(), "CRYPTO"))
        for match in _SEGWIT.finditer(text):
            if bech32_checks(match[0].lower()):
                spans.append(Span(*match.span(), "CRYPTO"))
        return spans

    def may_find(self, grown: Growing) -> bool:
        """Return whether new text may make a finding: there is a long word in it or near it."""
        return LONG_WORD.near(grown, self.reach)


def base58_checks(address: str) -> bool:
    """Return whether the last four bytes are the first ones of the others' double SHA-256."""
    alphabet = _RIPPLE if address[0] == "r" else _BITCOIN
    number = 0
    for letter in address:
        number = number * 58 + alphabet.index(letter)
    if number.bit_length() > 200:
        return False
    data = number.to_bytes(25, "big")
    if address[0] != "r" and data[0] not in _VERSIONS:
        return False
    return hashlib.sha256(hashlib.sha256(data[:-4]).digest()).digest()[:4] == data[-4:]


def bech32_checks(address: str) -> bool:
    """Return whether the checksum of a lower-case address is right (BIP 173 and BIP 350)."""
    prefix, _, data = address.rpartition("1")
    values = [ord(letter) >> 5 for letter in prefix] + [0]
    values += [ord(letter) & 31 for letter in prefix]
    values += [_BECH32.index(letter) for letter in data]
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(
            (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
        ):
            check ^= generator if top >> bit & 1 else 0
    return check in (1, 0x2BC830A3)
