"""Rewrites values that are dictated or spaced out into the form that detectors know.

"four one one one" becomes 4111, "joe at example dot org" an address, "4-1-1-1" or "41 11 11" one
number. Letters with spaces between them are joined, and so are the turns of a chat that was
rendered into one text.
"""

import re
from itertools import pairwise

from floe_plugins.gate.disguises.view import Rewriting, Stage, View, replacing, rewritten
from floe_plugins.gate.matching import matches_at
from floe_plugins.gate.top_level import KNOWN, UNMISTAKABLE

# The ten digits in some languages; a run of many of them is a number in any.
_LANGUAGES = (
    "zero one two three four five six seven eight nine",
    "null eins zwei drei vier fünf sechs sieben acht neun",
    "zéro un deux trois quatre cinq six sept huit neuf",
    "cero uno dos tres cuatro cinco seis siete ocho nueve",
    "zero um dois três quatro cinco seis sete oito nove",
    "zero uno due tre quattro cinque sei sette otto nove",
    "nul een twee drie vier vijf zes zeven acht negen",
)
_WORDS = {word: str(digit) for words in _LANGUAGES for digit, word in enumerate(words.split())} | {
    "oh": "0",
    "nought": "0",
    "zwo": "2",
}
_TEENS = (
    "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()  # noqa: SIM905
)
_WORDS |= {word: str(number) for number, word in enumerate(_TEENS, start=10)}
_TENS = {
    word: str(digit)
    for digit, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(),  # noqa: SIM905
        start=2,
    )
}
_REPEATS = {"double": 2, "triple": 3}
#: Digits in Chinese.
CHINESE = "〇一二三四五六七八九"

_ALL = "|".join(sorted({*_WORDS, *_TENS, *_REPEATS}, key=len, reverse=True))
_ITEM = rf"(?:(?:{_ALL})(?![^\W_])|\d{{1,4}}(?!\w))"
# Allowed between two items, line feeds included: people dictate in lists.
_RUN = re.compile(
    rf"(?<![^\W_]){_ITEM}(?:[\s,.;:/_-]{{1,3}}+(?:and\s)?{_ITEM}){{4,}}+"
    rf"|[{CHINESE}零]{{7,}}+",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[^\W_]+")
_LEAST_WORDS = 3
_LEAST_DIGITS = 6
# A cheap test: fewer words than this are not a number.
_APART = ",.;:/_-"
_COUNTED = frozenset({*_WORDS, *_TENS, *_REPEATS})

_AT = r"(?:at|ät|arroba|arobase|@)"
_DOT = r"(?:dot|punkt|punto|ponto|point|\.)"
_BRACKETED = re.compile(
    rf"\s{{0,3}}[\[({{<]\s{{0,2}}(?:(?P<at>{_AT})|{_DOT})\s{{0,2}}[\])}}>]\s{{0,3}}", re.IGNORECASE
)
# A decorator on a line of its own, or a product of matrices, is no address: domains are known.
_DOMAIN = rf"[\w-]{{1,63}}(?:\s?\.\s?[\w-]{{1,63}}){{0,3}}?\s?\.\s?(?:{KNOWN})(?![\w(]|\.\w)"
_BESIDE_AT = re.compile(
    rf"(?:(?<=\w)\s{{1,3}}@\s{{0,3}}|(?<=\w)\s{{0,3}}@\s{{1,3}})(?={_DOMAIN})", re.IGNORECASE
)
_BESIDE_DOT = re.compile(r"(?<=\w)\s{1,2}\.\s{0,2}(?=\w)")
_NAME = r"[\w+-]{1,64}"
_PROVIDERS = "gmail|googlemail|yahoo|hotmail|outlook|icloud|protonmail|proton|gmx|aol|web|mail|live"
# "We met at that point in time", "look at the dot", "I work at amazon dot com".
_DETERMINER = (
    r"(?:an?|the|th(?:is|at|ese|those|eir)|any|some|each|every|which|what|whatever|one|no|another|its"
    r"|his|her|my|our|your|polka|boiling|melting|freezing|starting|tipping|gun)\s"
)
_NO_LOCAL = (
    r"(?:work(?:s|ed|ing)?|look(?:s|ed|ing)?|shop(?:s|ped|ping)?|bought|buy|order(?:ed)?|found|find"
    r"|available|visit|us|me|it|here|online|in|on|is|are|was|sign(?:ed)?|log(?:ged)?|up|account|page"
    r"|site|website|more|and|or|hosted|sold|job|meet|read|see)\s"
)
_SIGN_AND_DOMAIN = rf"""
    (?:\s(?:at|ät|(?P<sign>arroba|arobase))\s | @) (?!{_DETERMINER})
    (?:(?:{_PROVIDERS})\.(?:com|net|org|de|me|co\.uk)(?![\w-])
    | {_NAME}(?:(?:\.|\s(?:dot|punkt|punto|ponto|point)\s){_NAME}){{0,3}}
      \s(?:(?:dot|punkt|punto|ponto)\s(?:{KNOWN})|point\s(?:{UNMISTAKABLE})
        |(?(sign)point\s(?:{KNOWN})|(?!)))(?![\w-]))"""
_FROM_SIGN = re.compile(_SIGN_AND_DOMAIN, re.IGNORECASE | re.VERBOSE)
_SPOKEN = re.compile(
    rf"""(?<![\w.+-])(?!{_NO_LOCAL}at\s)
    {_NAME}(?:(?:\.|\s(?:dot|punkt|punto|ponto|point|underscore|dash|hyphen|minus
        |plus)\s){_NAME}){{0,4}}{_SIGN_AND_DOMAIN}""",
    re.IGNORECASE | re.VERBOSE,
)
_LOUD = re.compile(
    rf"(?<![\w.+-])({_NAME}(?:\.{_NAME}){{0,3}}) AT ({_NAME}(?:\.{_NAME}){{0,3}}"
    rf"\.(?i:{KNOWN}))(?![\w-])"
)
_HINTS = ("dot", "@", "punkt", "punto", "ponto", " point ", "arroba", "arobase", "[.", "(.")
_AT_PROVIDER = re.compile(rf"\s(?:at|ät)\s(?:{_PROVIDERS})\.", re.IGNORECASE)
_AT_BRACKET = re.compile(rf"[\[({{<]\s?{_AT}", re.IGNORECASE)
_MARKS = {
    **dict.fromkeys(("at", "ät", "arroba", "arobase"), "@"),
    **dict.fromkeys(("dot", "punkt", "punto", "ponto", "point"), "."),
    "underscore": "_",
    **dict.fromkeys(("dash", "hyphen", "minus"), "-"),
    "plus": "+",
}
_SPOKEN_MARK = re.compile(rf"\s({'|'.join(_MARKS)})\s", re.IGNORECASE)

# Single characters, one space between each two: punctuation among them is part of the value.
_LETTERS = re.compile(r"(?<!\S)\S(?:[ \t]\S(?!\S)){6,}+")
_LEAST_SINGLES = 6

_TURN = re.compile(r"\n(?:user|assistant|system|model|human)\n", re.IGNORECASE)


def spelled_out(text: str, parent: View | None = None) -> View | None:
    """Return the view of a text with dictated numbers and addresses in digits and signs.

    `parent` is the view that the text is from, if any.

    Returns
    -------
    View or None
        None if nothing in the text is spelled out.
    """
    lower = text.lower()
    stages: list[Stage] = [_turns]
    apart = lower
    for sign in _APART:
        apart = apart.replace(sign, " ")
    words = apart.split()
    if list(map(len, words)).count(1) >= _LEAST_SINGLES:
        stages.append(_letters)
    chinese = not text.isascii() and any(digit in text for digit in CHINESE)
    if chinese or sum(map(_COUNTED.__contains__, words)) >= _LEAST_WORDS:
        stages.append(_digits)
    if any(hint in lower for hint in _HINTS) or _names_a_provider(text, lower):
        stages += [_marks, _addresses]
    return rewritten(text, parent, stages)


def counts(text: str) -> bool:
    """Return whether so many words of a text in lower case stand for digits as a number needs."""
    return counted(text) >= _LEAST_WORDS or (
        not text.isascii() and any(digit in text for digit in CHINESE)
    )


def counted(text: str) -> int:
    """Return how many words of a text in lower case stand for digits."""
    return sum(map(_COUNTED.__contains__, _TOKEN.findall(text)))


def _names_a_provider(text: str, lower: str) -> bool:
    return (
        (" at " in lower and _AT_PROVIDER.search(text) is not None)
        or " AT " in text
        or ("at" in lower and _AT_BRACKET.search(text) is not None)
    )


_turns = replacing(_TURN, "")


def _letters(text: str, parent: View | None) -> View | None:
    rewriting = Rewriting(text, parent)
    for match in _LETTERS.finditer(text):
        for place in range(match.start() + 1, match.end(), 2):
            rewriting.replace(place, place + 1, "")
    return rewriting.view()


def _dictated(run: str) -> str | None:
    if run[0] in CHINESE or run[0] == "零":
        return "".join(str(CHINESE.find(character.replace("零", "〇"))) for character in run)
    items = _TOKEN.findall(run.lower())
    if sum(not item.isdigit() for item in items) < _LEAST_WORDS:
        return None
    pieces: list[str] = []
    for item, following in pairwise((*items, "")):
        if item == "and" or item in _REPEATS:
            continue
        if item in _TENS:
            # "forty one" is 41, "forty eleven" are 40 and 11.
            piece = _TENS[item] + ("" if len(_WORDS.get(following, "")) == 1 else "0")
        else:
            piece = _WORDS.get(item, item)
        pieces.append(piece)
    digits = "".join(_repeated(items, pieces))
    return digits if len(digits) >= _LEAST_DIGITS else None


def _repeated(items: list[str], pieces: list[str]) -> list[str]:
    """Apply "double" and "triple" to the next item."""
    times, repeated, rest = 1, [], iter(pieces)
    for item in items:
        if item in _REPEATS:
            times = _REPEATS[item]
        elif item != "and":
            repeated.append(next(rest) * times)
            times = 1
    return repeated


_digits = replacing(_RUN, lambda run: _dictated(run[0]))
_bracketed = replacing(_BRACKETED, lambda mark: "@" if mark["at"] else ".")
_beside_at = replacing(_BESIDE_AT, "@")
_beside_dots = replacing(_BESIDE_DOT, ".")


def _marks(text: str, parent: View | None) -> View | None:
    """Write marks in brackets or between spaces as an address has them."""
    joined = rewritten(text, parent, (_bracketed, _beside_at))
    # If a mark is set off, dots may be, too.
    if joined is None:
        return None
    return rewritten(joined.text, joined, (_beside_dots,)) or joined


def _addresses(text: str, parent: View | None) -> View | None:
    rewriting = Rewriting(text, parent)
    found = []
    if _FROM_SIGN.search(text):
        found += [(match.span(), _written(match[0])) for match in _SPOKEN.finditer(text)]
    if " AT " in text:
        found += [(match.span(), f"{match[1]}@{match[2]}") for match in _LOUD.finditer(text)]
    last = 0
    for (start, end), address in sorted(found):
        if start >= last:
            rewriting.replace(start, end, address)
            last = end
    return rewriting.view()


def _written(spelled: str) -> str:
    return _SPOKEN_MARK.sub(lambda match: _MARKS[match[1].lower()], spelled)


_ALNUM = r"[^\W_]"

# Single letters or digits with anything else between them.
_SINGLES = re.compile(rf"(?<!{_ALNUM}){_ALNUM}(?:[\W_]{{1,3}}+{_ALNUM}(?!{_ALNUM})){{6,}}+")

# "12, 34, 56" and "rgb(120, 180, 120)" are lists of numbers.
_NO_LIST = r"(?!,[ ]\d{1,3}(?!\d))"

# Groups of two or three digits, the same between each two, and a shorter one at the end.
_PAIRS = re.compile(
    rf"(?<!\d)\d\d{_NO_LIST}([^+A-Za-z0-9]{{1,3}})\d\d(?!\d)(?:\1\d\d(?!\d)){{3,}}+(?:\1\d(?!\d))?"
)
_TRIPLES = re.compile(
    rf"(?<!\d)\d{{3}}{_NO_LIST}([\W_]{{1,3}})\d{{3}}(?!\d)(?:\1\d{{3}}(?!\d)){{2,}}+(?:\1\d\d?(?!\d))?"
)

# Between groups of three or more digits: separators that no detector of numbers expects.
_ODD = re.compile(
    rf"(?<=\d{{3}})(?:[|~;:+*\\•·…]|{_NO_LIST}[ \t\n.,/_|~;:\\()\[\]{{}}•·-]{{2,6}})(?=\d{{3}})"
)

# Letters for digits, in words of four characters and more with a digit among them.
_LEET = re.compile(r"(?<![^\W_])(?=[OolI]*\d)[\dOolI]{4,}+(?![^\W_])")
_MIXED = re.compile(r"\d(?:[OolI]|(?<=[OolI]\d))")
_NUMBER = re.compile(r"\d")
_LETTERS_OF_DIGITS = str.maketrans("OolI", "0011")

# Cheap tests: fewer digits, or single characters, cannot hide a number or address.
_DIGITS = "0123456789"
_LEAST_APART = 7


def counts_apart(text: str) -> bool:
    """Return whether a text has as many digits or single characters as a value that is spaced out.

    Single characters may have other signs between them than spaces.
    """
    return (
        list(map(len, text.split())).count(1) >= _LEAST_SINGLES
        or sum(map(text.count, _DIGITS)) >= _LEAST_APART
        or _THREE_SINGLES.search(text) is not None
    )


def may_be_number(text: str) -> bool:
    """Return whether a text with digits may have them in groups, or letters in place of some."""
    return len(_NUMBER.findall(text)) >= _LEAST_DIGITS or _MIXED.search(text) is not None


def closed_up(text: str, parent: View | None = None, *, of_apart: bool = False) -> View | None:
    """Return the view of a text in which spaced-out digits and letters are joined.

    Parameters
    ----------
    parent : View, optional
        The view that the text is from.
    of_apart : bool, optional
        Whether the text is a part of one that `counts_apart`, in which all of them are joined.

    Returns
    -------
    View or None
        None if nothing in the text is spaced out.
    """
    stages = [_leet] if any(map(text.__contains__, _DIGITS)) else []
    if of_apart or counts_apart(text):
        stages += (
            [_groups, _odd] if _THREE_SINGLES.search(text) is None else [_singles, _groups, _odd]
        )
    return rewritten(text, parent, stages)


def _of_digits(word: re.Match[str]) -> str | None:
    return None if word[0].isdigit() else word[0].translate(_LETTERS_OF_DIGITS)


# Where these may begin: a set of characters is found many times faster than what is not before it.
_LEET_STARTS = re.compile(r"[\dOolI]{4,}+")
_SINGLE_STARTS = re.compile(rf"{_ALNUM}(?=[\W_]{{1,3}}+{_ALNUM}(?!{_ALNUM}))")
_NUMBERS = re.compile(r"\d\d*")
# Part of every run of singles.
_THREE_SINGLES = re.compile(rf"[\W_]{_ALNUM}[\W_]{{1,3}}{_ALNUM}[\W_]{{1,3}}{_ALNUM}[\W_]")

_leet = replacing(_LEET, _of_digits, starts=_LEET_STARTS)
_singles = replacing(_SINGLES, lambda run: re.sub(r"[\W_]", "", run[0]), starts=_SINGLE_STARTS)
_odd = replacing(_ODD, " ")


def _groups(text: str, parent: View | None) -> View | None:
    rewriting = Rewriting(text, parent)
    matches = sorted(
        (*matches_at(_NUMBERS, _PAIRS, text), *matches_at(_NUMBERS, _TRIPLES, text)),
        key=lambda match: match.start(),
    )
    last = 0
    for match in matches:
        if match.start() >= last:
            last = match.end()
            rewriting.replace(match.start(), last, re.sub(r"\D", "", match[0]))
    return rewriting.view()
