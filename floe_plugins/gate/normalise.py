"""A view of a text without what hides structure from patterns, with a way back to its offsets.

Full-width and other digits become ASCII, invisible characters and combining marks go, dashes and
spaces become the plain ones. Detectors are asked on this view and on the text itself.
"""

import functools
import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass

# Anything but printable ASCII and the usual white space.
_SPECIAL = re.compile(r"[^\t\n\r\x20-\x7e]")

# Formats, marks and controls: they take no place between the characters that are seen.
_INVISIBLE = {"Cc", "Cf", "Mn", "Me"}

# Letters by their category, though nothing is seen of them: Hangul fillers, a blank Braille cell.
_BLANK = {"\u115f", "\u1160", "\u3164", "\uffa0", "\u2800"}

# Read as a dot in domain names (RFC 3490, section 3.1).
_FULL_STOPS = {"\u3002", "\uff0e", "\uff61"}


@dataclass(frozen=True)
class View:
    """A normalised text.

    Attributes
    ----------
    text : str
        The normalised text.
    """

    text: str
    _starts: tuple[int, ...]
    _origins: tuple[int, ...]
    _steps: tuple[int, ...]

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Return the offsets in the original of ``text[start:end]``, which must not be empty."""
        return self._locate(start), self._locate(end - 1) + 1

    def _locate(self, offset: int) -> int:
        segment = bisect_right(self._starts, offset) - 1
        return self._origins[segment] + self._steps[segment] * (offset - self._starts[segment])


def normalised(text: str) -> View | None:
    """Return the normalised view of a text, or None if it is the text itself.

    Parameters
    ----------
    text : str
        Any text without lone surrogates.

    Returns
    -------
    View or None
        In time linear in the text.
    """
    pieces: list[str] = []
    # A segment of the view begins at `start`, comes from `origin`, and advances there by `step`
    # characters for each of its own: 1 along unchanged text, 0 where one becomes several.
    starts, origins, steps = [0], [0], [1]
    length = 0
    copied = 0
    for match in _SPECIAL.finditer(text):
        place = match.start()
        character = match[0]
        seen = _seen(character)
        if seen == character:
            continue
        pieces.append(text[copied:place])
        length += place - copied
        copied = place + 1
        if seen:
            pieces.append(seen)
            _begin(starts, origins, steps, (length, place, 0))
            length += len(seen)
        _begin(starts, origins, steps, (length, copied, 1))
    if not pieces:
        return None
    pieces.append(text[copied:])
    return View("".join(pieces), tuple(starts), tuple(origins), tuple(steps))


def _begin(
    starts: list[int], origins: list[int], steps: list[int], segment: tuple[int, int, int]
) -> None:
    if starts[-1] == segment[0]:
        # The segment before is empty.
        starts.pop(), origins.pop(), steps.pop()
    starts.append(segment[0])
    origins.append(segment[1])
    steps.append(segment[2])


@functools.lru_cache(maxsize=8192)
def _seen(character: str) -> str:
    """Return what a reader makes of one character."""
    if character in _BLANK:
        return ""
    return "".join(_plain(part) for part in unicodedata.normalize("NFKC", character))


def _plain(character: str) -> str:
    category = unicodedata.category(character)
    if category in _INVISIBLE:
        return "" if character not in "\t\n\r" else character
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Pd":
        return "-"
    if category in ("Zs", "Zl", "Zp"):
        return " "
    return "." if character in _FULL_STOPS else character
