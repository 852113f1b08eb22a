"""Strips invisible characters and replaces look-alike ones.

Full-width and other digits become ASCII, invisible characters and combining marks are removed, and
dashes and spaces become plain ones. Letters of other alphabets that look like Latin ones become
Latin in words and texts that are otherwise Latin.
"""

import functools
import re
import unicodedata

from floe_plugins.gate.disguises.view import Rewriting, View

_TABLE = {
    "A": "АΑᴀ",
    "B": "ВΒʙ",
    "C": "СϹᴄ",
    "D": "ᴅ",
    "E": "ЕΕᴇ",
    "F": "Ϝꜰ",
    "G": "Ԍɢ",
    "H": "НΗʜ",
    "I": "ІΙӀɪ",
    "J": "ЈͿᴊ",
    "K": "КΚᴋ",
    "L": "ʟ",
    "M": "МΜᴍ",
    "N": "Νɴ",
    "O": "ОΟՕᴏ",
    "P": "РΡᴘ",
    "Q": "Ԛ",
    "R": "ʀ",
    "S": "ЅՏꜱ",
    "T": "ТΤᴛ",
    "U": "Սᴜ",
    "V": "Ѵᴠ",
    "W": "Ԝᴡ",
    "X": "ХΧ",
    "Y": "ҮΥʏУ",
    "Z": "Ζᴢ",
    "a": "аαɑ",
    "b": "Ь",
    "c": "сϲ",
    "d": "ԁ",
    "e": "еҽ",
    "f": "ք",
    "g": "ɡց",
    "h": "һհ",
    "i": "іιı",
    "j": "јϳ",
    "k": "κ",
    "l": "ӏ",
    "n": "ո",
    "o": "оοօσ",
    "p": "рρ",
    "q": "ԛզ",
    "s": "ѕ",
    "t": "τ",
    "u": "υս",
    "v": "ѵν",
    "w": "ԝ",
    "x": "хχ",
    "y": "уγ",
    "z": "ʐ",
}

LATIN: dict[str, str] = {
    character: letter for letter, characters in _TABLE.items() for character in characters
}
"""Look-alike to the ASCII letter that it resembles."""


_LOOK_ALIKE = re.compile(f"[{''.join(LATIN)}]")

# Anything but printable ASCII and the usual white space.
_SPECIAL = re.compile(r"[^\t\n\r\x20-\x7e]")

_WORD = re.compile(r"\w++")
_ASCII_LETTER = re.compile(r"[A-Za-z]")

# Formats, marks and controls take no space between visible characters.
_INVISIBLE = {"Cc", "Cf", "Mn", "Me"}

# Letters by their category, but invisible: Hangul fillers, a blank Braille cell.
_BLANK = {"\u115f", "\u1160", "\u3164", "\uffa0", "\u2800"}

# Read as a dot in domain names (RFC 3490, section 3.1).
_FULL_STOPS = {"\u3002", "\uff0e", "\uff61"}


def normalised(text: str, parent: View | None = None) -> View | None:
    """Return the view of a text without invisible and look-alike characters, in linear time.

    Parameters
    ----------
    text : str
        Any text without lone surrogates.
    parent : View, optional
        The view that the text is from.

    Returns
    -------
    View or None
        None if the text does not change.
    """
    if _SPECIAL.search(text) is None:
        return None
    rewriting = Rewriting(text, parent)
    for match in _SPECIAL.finditer(text):
        seen = _seen(match[0])
        if seen != match[0]:
            rewriting.replace(match.start(), match.end(), seen)
    plain = rewriting.view()
    folded = _folded(text if plain is None else plain.text, parent if plain is None else plain)
    return folded or plain


@functools.lru_cache(maxsize=8192)
def _seen(character: str) -> str:
    """Return one character as a reader sees it."""
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


def changes(text: str) -> bool:
    """Return whether `normalised` may change a text, by its characters."""
    return any(_seen(each) != each or each in LATIN for each in frozenset(_SPECIAL.findall(text)))


def has_look_alikes(text: str) -> bool:
    """Return whether letters of a text may become Latin ones, which depends on all of it."""
    if text.isascii():
        return False
    return _LOOK_ALIKE.search(unicodedata.normalize("NFKC", text)) is not None


def _folded(text: str, parent: View | None) -> View | None:
    """Replace look-alikes by Latin letters, but leave words of other languages alone.

    A word changes if its only foreign letters are look-alikes, and it has ASCII letters or digits
    too or is in a text that is mostly Latin.
    """
    if text.isascii() or _LOOK_ALIKE.search(text) is None:
        return None
    letters = len(_ASCII_LETTER.findall(text))
    latin = 2 * letters > sum(map(str.isalpha, text))
    rewriting = Rewriting(text, parent)
    for match in _WORD.finditer(text):
        word = match[0]
        if word.isascii():
            continue
        foreign = [character for character in word if not character.isascii()]
        if all(character in LATIN for character in foreign) and (latin or len(foreign) < len(word)):
            for place, character in enumerate(word, start=match.start()):
                if character in LATIN:
                    rewriting.replace(place, place + 1, LATIN[character])
    return rewriting.view()
