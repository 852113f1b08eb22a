"""Places as latitude and longitude: announced, with points of the compass, or of a map."""

import re
from collections.abc import Iterator

from floe_plugins.gate.detector import Span

# Four decimals are about ten metres; fewer name a town, and numbers of programs.
_NAMED_SECOND = r"(?:(?:lon(?:g(?:itude)?)?|lng|länge)[\"']?[ \t]{0,2}[:=]?[ \t]{0,2})?"
_PAIR = re.compile(
    rf"""(?<![\d.])[+-]?\d{{1,2}}\.\d{{4,15}}[ ]?°?[ ]?(?P<north>[NS]\b)?[\s,;/"'&]{{1,6}}
    (?:and[ ])?{_NAMED_SECOND}[+-]?\d{{1,3}}\.\d{{4,15}}(?:[ ]?°?[ ]?[EWO]\b)?(?![\d.])
    | (?<!\d)\d{{1,2}}°[ ]?\d{{1,2}}['’′][ ]?(?:\d{{1,2}}(?:\.\d+)?(?:["”″]|''))?
      [ ]?(?P<minutes>[NS])
      [ ,;/]{{1,3}}\d{{1,3}}°[ ]?\d{{1,2}}['’′][ ]?(?:\d{{1,2}}(?:\.\d{{1,6}})?(?:["”″]|''))?
      [ ]?[EWO]\b""",
    re.VERBOSE | re.IGNORECASE,
)
_CUE = re.compile(
    r"\b(?:lat(?:itude|itud)?|lng|coord\w*|koord\w*|gps|geo|location|ubicaci[oó]n|standort|posizione"
    r"|breite\w*|i\ am\ at|live\ at|house|home)\b|[@=]\Z",
    re.IGNORECASE,
)
_CUE_CHARS = 40
_FIGURE = re.compile(r"\d\.\d{4}|\d°")


def coordinates(text: str) -> Iterator[Span]:
    """Yield the pairs of coordinates of a text."""
    if _FIGURE.search(text) is None:
        return
    for match in _PAIR.finditer(text):
        start = match.start()
        if (
            match["minutes"]
            or match["north"]
            or _CUE.search(text, max(0, start - _CUE_CHARS), start)
        ):
            yield Span(*match.span(), "COORDINATES")
