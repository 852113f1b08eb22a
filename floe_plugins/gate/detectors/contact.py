"""Telephone numbers, by how they are written, by the words beside them, or by national plans."""

import re
from collections.abc import Sequence

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.pattern import matches_at
from floe_plugins.gate.detectors.phone_plans import is_grouped, is_planned

# What stands between two digits of one number: nothing, a separator, or a bracket.
_GAP = r"(?:[ -]?[()][ -]?|[ ./-])?+"

# Not within a word, a decimal or a number with a thousands separator.
_BEGIN = r"(?<![\w.+])(?<!\d,)"
_EXTENSION = r"(?:[ ]?(?:x|ext\.?)[ ]?\d{1,6})?(?!\w)"

_STARTS = re.compile(r"[+(\d](?:(?<=\d)\d*)?")

# Written so that a reader takes it for a telephone number without being told.
_PLAIN = re.compile(
    rf"""{_BEGIN}(?:
        (?:\+|00){_GAP}[1-9](?:{_GAP}\d){{6,14}}                     # +49 30 123456
        | (?:1[ .-])?\(?[2-9]\d\d\)?[ .-]?[2-9]\d\d[.-]\d{{4}}         # (212) 555-0143
        | \(\d{{2,5}}\)[ -]?\d{{2,5}}(?:[ -]?\d{{2,5}}){{1,3}}             # (044) 688 75 38
        | (?P<trunk>0\d{{1,4}}(?:[ -]|[ ]?/[ ]?)\d{{2,8}}(?:[ -]\d{{2,5}}){{0,4}})  # 030 1234567
    ){_EXTENSION}""",
    re.VERBOSE | re.IGNORECASE,
)

# Digits that may be anything, beside a word that says what they are.
_NUMBER = re.compile(rf"{_BEGIN}[+(]?\d(?:{_GAP}\d){{6,14}}{_EXTENSION}", re.IGNORECASE)
_CUE = re.compile(
    r"\b(?:(?:tele)?(?:phone|fon[oe]?)|call|dial|text|sms|whatsapp|mobile|cell|fax|tel|handy"
    r"|ring|reach|landline|hotline|answering|m[oó]vil|portable)\b",
    re.IGNORECASE,
)
_CUE_AFTER = re.compile(
    r"[ \t,;:(-]{0,3}(?:office|fax|mobile|cell|phone|home|work)\b", re.IGNORECASE
)
_CUE_CHARS = 40

# Fewer digits than these are years, times and quantities.
_DIGITS = 7
_TRUNK_DIGITS = 9

# Looking a number up takes a fraction of a millisecond. A text with more numbers than these is made
# to take long, and they all count as found.
_MOST_LOOKED_UP = 256


class PhoneDetector:
    """Finds telephone numbers, national ones too where their form or a cue gives them away."""

    name = "phone"
    labels: Sequence[str] = ("PHONE",)

    def detect(self, text: str) -> Sequence[Span]:
        """Return the telephone numbers of a text."""
        matches = [match for match in matches_at(_STARTS, _PLAIN, text) if _long_enough(match)]
        looked_up = 0
        for match in matches_at(_STARTS, _NUMBER, text):
            if _announced(match):
                matches.append(match)
            elif is_grouped(match[0]):
                looked_up += 1
                if looked_up > _MOST_LOOKED_UP or is_planned(match[0]):
                    matches.append(match)
        return sorted({Span(match.start(), match.end(), "PHONE") for match in matches})


def _long_enough(match: re.Match[str]) -> bool:
    digits = sum(character.isdigit() for character in match[0])
    return digits >= (_TRUNK_DIGITS if match["trunk"] else _DIGITS)


def _announced(match: re.Match[str]) -> bool:
    start = match.start()
    return bool(
        _CUE.search(match.string, max(0, start - _CUE_CHARS), start)
        or _CUE_AFTER.match(match.string, match.end())
    )
