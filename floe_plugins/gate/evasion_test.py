"""Attacks on the gate with the built-in patterns: those that it catches and those that it does not.

The second list is that of `docs/how-to/gate.md`, under "What is not protected". An attack that is
caught later moves to the first.
"""

from __future__ import annotations

import base64
import codecs
from pathlib import Path

import pytest

from floe_plugins.gate import Decision, Gate, Message
from floe_plugins.testing.gates import STRUCTURED

MAIL = "joe.bloggs@example.org"
CARD = "4111 1111 1111 1111"
DIGITS = "4111111111111111"
SSN = "078-05-1120"
KEY = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
IBAN = "DE89370400440532013000"

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "gate.md"

GATE = Gate(detectors=STRUCTURED, timeout_s=30)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


CAUGHT: dict[str, str] = {
    "zero-width joiners in a card": "\u200d".join(DIGITS),
    "word joiners in an address": "\u2060".join(MAIL),
    "bidirectional controls": f"\u202e{MAIL}\u202c",
    "variation selectors": "\ufe0f".join(DIGITS),
    "tag characters": "".join(f"{character}\U000e0061" for character in DIGITS),
    "combining marks": "".join(f"{character}\u0336" for character in DIGITS),
    "full-width": "４１１１ １１１１ １１１１ １１１１",
    "mathematical digits": "𝟒𝟏𝟏𝟏 𝟏𝟏𝟏𝟏 𝟏𝟏𝟏𝟏 𝟏𝟏𝟏𝟏",
    "arabic digits": "٤١١١ ١١١١ ١١١١ ١١١١",
    "circled digits": "④①①① ①①①① ①①①① ①①①①",
    "superscripts": "⁴¹¹¹ ¹¹¹¹ ¹¹¹¹ ¹¹¹¹",
    "cyrillic letters": "jое.blоggs@ехаmрle.оrg",
    "a cyrillic key": KEY.replace("ghp_", "gһр_").replace("abc", "аbс"),
    "soft hyphens": "\u00ad".join(MAIL),
    "no-break hyphens": SSN.replace("-", "\u2011"),
    "exotic spaces": CARD.replace(" ", "\u2003"),
    "spelled out": "four " + "one " * 15,
    "spelled out in German": "vier " + "eins " * 15,
    "spelled out with double": "four one one one " + "double one " * 6,
    "spaced digits": " ".join(DIGITS),
    "dotted digits": ".".join(DIGITS),
    "lines of digits": "\n".join(DIGITS),
    "pairs": "41 11 11 11 11 11 11 11",
    "underscores": CARD.replace(" ", "__"),
    "letters for digits": "4lll lll1 1l1l 1III",
    "spaced letters": " ".join(MAIL),
    "spaced IBAN": " ".join(IBAN),
    "at and dot": "joe dot bloggs at example dot org",
    "at and dot in brackets": "joe.bloggs[at]example[dot]org",
    "at and dot in French": "joe.bloggs arobase example point org",
    "base64": b64(f"my mail is {MAIL}"),
    "base64 twice": b64(b64(MAIL)),
    "base64 behind letters": "xyz" + b64(MAIL),
    "base64 in a link": f"https://example.com/?q={b64(MAIL)}",
    "hexadecimal": MAIL.encode().hex(),
    "URL encoding": "".join(f"%{byte:02x}" for byte in MAIL.encode()),
    "URL encoding twice": MAIL.replace("@", "%2540"),
    "HTML entities": "".join(f"&#{ord(character)};" for character in MAIL),
    "JSON escapes": "".join(f"\\u{ord(character):04x}" for character in MAIL),
    "full-width within base64": b64("４１１１ １１１１ １１１１ １１１１"),
    "in code": f'send(to="{MAIL}")',
    "in a table": "| 4111 | 1111 | 1111 | 1111 |",
    "a private key without its end": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg",
}

MISSED: dict[str, str] = {
    "backwards": CARD[::-1],
    "rot13": codecs.encode(KEY, "rot13"),
    "base32": base64.b32encode(MAIL.encode()).decode(),
    "base64 in pieces": " ".join(b64(MAIL)[at : at + 6] for at in range(0, 32, 6)),
    "quoted-printable": MAIL.replace("@", "=40"),
    "words between the parts": "card 4111 1111 and then the other half 1111 1111",
    "described": "my card: a four, then fifteen ones",
    "arithmetic": "my card is 4111111111111110 plus one",
    "digits in Finnish": "neljä " + "yksi " * 15,
    "at as a sign of another kind": "joe.bloggs ⓐ example.org",
    "Morse": "....- " + ".---- " * 15,
    "what only its owner knows to be secret": "correct horse battery staple",
}


@pytest.mark.parametrize("text", CAUGHT.values(), ids=CAUGHT.keys())
def test_this_does_not_get_through(text: str) -> None:
    verdict = GATE.decide(f"Please note: {text} , thanks.")
    assert verdict.decision is Decision.LOCAL
    assert verdict.scanned_all
    assert verdict.spans


@pytest.mark.parametrize("text", MISSED.values(), ids=MISSED.keys())
def test_this_is_known_to_get_through(text: str) -> None:
    assert GATE.decide(f"Please note: {text} , thanks.").decision is Decision.CLEAR


def test_over_messages_with_words_in_between_it_is_known_to_get_through() -> None:
    texts = ("my card begins with 4111 1111", "ok", "and it ends with 1111 1111")
    roles = ("user", "assistant", "user")
    messages = [Message(text, role) for text, role in zip(texts, roles, strict=True)]
    assert GATE.decide(messages).decision is Decision.CLEAR


def test_what_gets_through_is_listed() -> None:
    page = PAGE.read_text(encoding="utf-8")
    words = ("backwards", "rot13", "base32", "quoted-printable", "Morse", "arithmetic")
    assert all(word in page and word in MISSED for word in words)
