"""Tells the address of a house from a word of an address.

Detectors give one label to streets, post codes, districts and "Street" alike. An address that leads
to somebody's door has a name and a number.
"""

import re
from collections.abc import Collection

from floe_plugins.gate.detector import Span

# Two findings with no more than this between them are parts of one address.
_BETWEEN = re.compile(r"[ ,.\n]{0,3}")
_NAME = re.compile(r"[^\W\d_]{3,}")
_LINES = re.compile(r"[\n\t]")
_NUMBER = re.compile(r"\d")
# The number of a house right after a finding; not a decimal, a share, or the beginning of a word.
_HOUSE = re.compile(r"[ ]\d{1,4}[a-z]?(?![\w%]|[.,]\d)")

# Words after which a name with a number is an address, whatever it was taken for.
_LEADS_TO = re.compile(
    r"\b(?:address|adresse|anschrift|direcci[oó]n|indirizzo|domicilio|corner\ of"
    r"|(?:liv(?:e|es|ed|ing)|resid(?:e|es|ed|ing)|return|deliver(?:ed|y)?|ship(?:ped)?|send|sent"
    r"|taxi|meet|arrived|office\ is|moved|wohn(?:e|t|en|haft)|habit(?:e|ons|ez)|viv(?:o|e|imos)"
    r"|abit(?:o|a|iamo))\b[^.\n]{0,24}?\ (?:at|to|in|an|à|en|a))\b[^.\n]{0,40}\Z",
    re.IGNORECASE | re.VERBOSE,
)
_LEADING_CHARS = 80


def street_addresses(text: str, spans: Collection[Span]) -> set[Span]:
    """Return the spans that belong to the address of a house or a post box.

    Parameters
    ----------
    spans : collection of Span
        Findings in `text` that are addresses, or words of some.
    """
    found: set[Span] = set()
    for parts in _joined(text, sorted(spans)):
        start, end = parts[0].start, max(part.end for part in parts)
        house = _HOUSE.match(text, end)
        whole = text[start : end if house is None else house.end()]
        # A column of a table and the next line's number are no street.
        if any(_NUMBER.search(line) and _NAME.search(line) for line in _LINES.split(whole)):
            found.update(parts)
    return found


def leads_to_a_house(text: str, span: Span) -> bool:
    """Return whether a name is that of a street, by a house number and the words before it."""
    return _HOUSE.match(text, span.end) is not None and bool(
        _LEADS_TO.search(text, max(0, span.start - _LEADING_CHARS), span.start)
    )


def _joined(text: str, spans: Collection[Span]) -> list[list[Span]]:
    groups: list[list[Span]] = []
    end = 0
    for span in spans:
        if groups and (span.start <= end or _BETWEEN.fullmatch(text, end, span.start)):
            groups[-1].append(span)
        else:
            groups.append([span])
            end = 0
        end = max(end, span.end)
    return groups
