"""Closes up numbers that were pulled apart, as "4-1-1-1" or "41 11 11", with letters for digits."""

import re

from floe_plugins.gate.disguises.view import Rewriting, View, replacing, rewritten

_ALNUM = r"[^\W_]"

# Single letters or digits with anything else between them.
_SINGLES = re.compile(rf"(?<!{_ALNUM}){_ALNUM}(?:[\W_]{{1,3}}+{_ALNUM}(?!{_ALNUM})){{6,}}+")

# Groups of two or three digits, the same between each two, and a shorter one at the end.
_PAIRS = re.compile(
    r"(?<!\d)\d\d([^+A-Za-z0-9]{1,3})\d\d(?!\d)(?:\1\d\d(?!\d)){3,}+(?:\1\d(?!\d))?"
)
_TRIPLES = re.compile(
    r"(?<!\d)\d{3}([\W_]{1,3})\d{3}(?!\d)(?:\1\d{3}(?!\d)){2,}+(?:\1\d\d?(?!\d))?"
)

# Between groups of three digits and more: what no detector of numbers expects there.
_ODD = re.compile(r"(?<=\d{3})(?:[|~;:+*\\•·…]|[ \t\n.,/_|~;:\\()\[\]{}•·-]{2,6})(?=\d{3})")

# Letters for digits, in words of four characters and more with a digit among them.
_LEET = re.compile(r"(?<![^\W_])(?=[OolI]*\d)[\dOolI]{4,}+(?![^\W_])")
_LETTERS_OF_DIGITS = str.maketrans("OolI", "0011")

# Tests that cost next to nothing: fewer digits, or single characters, hide no number or address.
_NO_DIGITS = str.maketrans("", "", "0123456789")
_LEAST_DIGITS = 7
_LEAST_SINGLES = 6


def spaced(text: str, parent: View | None = None) -> View | None:
    """Return the view of a text with numbers closed up that were pulled apart.

    Parameters
    ----------
    text : str
    parent : View, optional
        Where the text is from.

    Returns
    -------
    View or None
        None if nothing in the text is pulled apart.
    """
    digits = len(text) - len(text.translate(_NO_DIGITS))
    singles = sum(len(word) == 1 for word in text.split())
    stages = [_leet] if digits else []
    if singles >= _LEAST_SINGLES or digits >= _LEAST_DIGITS:
        stages += [_singles, _groups, _odd]
    return rewritten(text, parent, stages)


def _of_digits(word: re.Match[str]) -> str | None:
    return None if word[0].isdigit() else word[0].translate(_LETTERS_OF_DIGITS)


_leet = replacing(_LEET, _of_digits)
_singles = replacing(_SINGLES, lambda run: re.sub(r"[\W_]", "", run[0]))
_odd = replacing(_ODD, " ")


def _groups(text: str, parent: View | None) -> View | None:
    rewriting = Rewriting(text, parent)
    matches = sorted(
        (*_PAIRS.finditer(text), *_TRIPLES.finditer(text)), key=lambda match: match.start()
    )
    last = 0
    for match in matches:
        if match.start() >= last:
            last = match.end()
            rewriting.replace(match.start(), last, re.sub(r"\D", "", match[0]))
    return rewriting.view()
