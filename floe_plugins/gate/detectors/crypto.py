"""Addresses of crypto currencies, with their checks where they have one."""

import hashlib
import re
from collections.abc import Sequence

from floe_plugins.gate.detector import Span

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


def base58_checks(address: str) -> bool:
    """Tell whether the last four bytes are the first ones of the others' double SHA-256."""
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
    """Tell whether the checksum of a lower-case address is right (BIP 173 and BIP 350)."""
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
