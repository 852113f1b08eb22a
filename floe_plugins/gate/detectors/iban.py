"""International bank account numbers (ISO 13616-1), with the check by modulus 97."""

import re
from collections.abc import Sequence

from floe_plugins.gate.detector import Span

# Number of characters per country, from the IBAN registry.
_LENGTHS = {
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

_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}(?=[ \t-]?\d)")
_BODIES = {
    length: re.compile(rf"(?:[ \t-]{{0,2}}[0-9A-Za-z]){{{length - 2}}}(?![0-9A-Za-z])")
    for length in set(_LENGTHS.values())
}
_SEPARATORS = str.maketrans("", "", " \t-")


class IbanDetector:
    """Finds IBANs in either case, whole or in groups."""

    name = "iban"
    labels: Sequence[str] = ("IBAN",)

    def detect(self, text: str) -> Sequence[Span]:
        """Return the IBANs of a text."""
        spans = []
        for start in _START.finditer(text):
            length = _LENGTHS.get(start[0].upper())
            body = _BODIES[length].match(text, start.end()) if length else None
            if body is not None and checks(start[0] + body[0]):
                spans.append(Span(start.start(), body.end(), "IBAN"))
        return spans


def checks(iban: str) -> bool:
    """Tell whether the two check digits of an IBAN are right (ISO 7064, MOD 97-10)."""
    plain = iban.translate(_SEPARATORS)
    if not plain[2:4].isdigit():
        return False
    # Base 36 gives letters the values that the standard wants, A = 10 to Z = 35.
    digits = "".join(str(int(character, 36)) for character in plain[4:] + plain[:4])
    return int(digits) % 97 == 1
