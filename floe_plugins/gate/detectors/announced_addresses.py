"""Postal addresses by what stands around them, where the street's own form does not tell.

"Sorlaskeid 32" may be anything; after "please return to" it is where somebody lives or works.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from floe_plugins.gate.detector import Span
from floe_plugins.gate.growing import Cues, Growing
from floe_plugins.gate.matching import any_of

_WORD = r"[^\W\d_][\w.'’-]{0,24}"
_CAPITAL = r"[^\W\da-zß-ÿ_][\w.'’-]{0,24}"
#: The number of a house: no decimal, share, time, or beginning of a word.
_HOUSE = r"\d{1,5}[a-zA-Z]?(?:/\d{1,4})?(?![\w%€$°]|[.,:/]\d)"

# What may follow the house: a unit; a town with a post code.
_UNIT_WORDS = ("apt", "apartment", "suite", "ste", "unit", "flat", "whg", "int", "dpto", "piso")
_UNIT = f"(?:{'|'.join(_UNIT_WORDS)})"
_REST = (
    rf"(?:[^\w]{{1,8}}(?i:{_UNIT})\b[^\w]{{0,3}}\w{{1,6}})?"
    rf"(?:(?:[^\w]{{1,8}}{_WORD}(?:[ ]{_WORD}){{0,3}}){{1,3}}[^\w]{{1,8}}\d{{4,6}}\b)?"
)

# The texts that announce an address, whatever the street is called, with its words in any case
# between two numbers, or beginning with a capital before or behind one.
#: One of these is in every text that announces one; looking for them is faster than the pattern.
_ANNOUNCING = (
    "address",
    "adresse",
    "anschrift",
    "indirizzo",
    "direcc",
    "domicilio",
    *("live", "living at", "resid", "wohn", "habit", "viv", "abit"),
)
_TWO_NUMBERS = rf"\d{{1,5}}[a-z]?,?[ ](?:{_WORD}[ ]){{1,5}}?{_HOUSE}"
_NUMBER_FIRST = rf"\d{{1,5}}[a-z]?,?[ ](?:\d{{1,5}}[ ])?{_CAPITAL}(?:[ ]{_CAPITAL}){{0,4}}"
_NUMBER_LAST = rf"{_CAPITAL}(?:[ ]{_WORD}){{0,5}}?[ ]{_HOUSE}"
_ANNOUNCED = re.compile(
    r"\b(?i:(?:address|adresse|anschrift|indirizzo|direcci[oó]n|domicilio)"
    r"(?:[ ](?:is|was|ist|lautet|est|es|è|of[ ][^\W\d_]{2,20}[ ]is))?"
    r"[ ]?(?:[:=]\s{0,3}|\n{1,2}|[ ])"
    r"|(?:lives?|living|lived|resid(?:e|es|ing))[ ]at[ ]"
    r"|wohn(?:e|t|en|haft)[ ]in[ ]der[ ]|habit(?:e|ons|ez)[ ]au[ ]|viv(?:o|e|imos)[ ]en[ ]"
    r"|abit(?:o|a|iamo)[ ]in[ ])"
    rf"(?P<address>{_TWO_NUMBERS}|{_NUMBER_FIRST}|{_NUMBER_LAST}){_REST}"
)

# Texts that say where somebody or something is to go: often an address, often a page or a gate.
_SAYING_WHERE = ("return", "taxi", "cab ", "office is", "deliver", "pick", "corner of", "ship")
_GOING = re.compile(
    r"\b(?i:(?:return(?:[ ](?:it|this|them))?|taxi|cab|deliver(?:ed|y)?(?:[ ](?:it|this|them))?"
    r"|ship(?:ped)?(?:[ ](?:it|this|them))?)[ ]to[ ]|office[ ]is[ ](?:at|in)[ ]|corner[ ]of[ ]"
    r"|pick(?:ed)?[ ](?:me|us|him|her|them|it)[ ]up[ ](?:at|from)[ ])"
    rf"(?P<address>(?=[^\d\n]{{2,120}}\d\d){_NUMBER_LAST}){_REST}"
)
#: What is numbered beside houses.
_NUMBERED = frozenset(
    "page step gate platform terminal chapter section line level floor room version table figure"  # noqa: SIM905
    " building block exit stop track channel windows python java ios android phase stage round part"
    " unit area"
    " district zone sector bay dock aisle row seat form rule item option question answer day week"
    " year highway route flight train bus season episode volume january february march april may"
    " june july august september october november december".split()
)

#: In no name of a street without a capital.
_FUNCTION_WORDS = frozenset(
    "am pm and or of in on at to the a an with for from by is are was were has have had der die das"  # noqa: SIM905
    " den dem des ein eine einer einem einen jede jeder diese dieser le les un une el los las una"
    " il lo gli uno een het deze and und oder et y e".split()
)

#: Words of a street beside those of `PostalAddressDetector`, in other languages, before a number.
_STREET_WORDS = frozenset(
    "utca út útja tér tere körút krt rakpart köz vei veien gata vej allé allee straße"  # noqa: SIM905
    " strasse platz weg gasse ufer straat laan plein ulice ulica třída náměstí nábřeží trg cesta"
    " bulevar bulevardi bulvarı caddesi sokak sokağı katu kuja väg vägen stræde plass"
    " strada calea aleea".split()
)
_NUMBERS = re.compile(r"\d(?<![\w.,]\d)\d{0,4}[a-zA-Z]?(?![\w%€$°]|[.,:/]\d)")
_BEFORE_NUMBER = re.compile(rf"(?P<name>{_WORD})[ ](?P<street>{_WORD})\.?[ ]\Z")
# "97 guildry street, apt. 818": the line before the unit has a number and words.
_BEFORE_UNIT = re.compile(
    rf"(?<![\w.,])\d{{1,5}}[a-zA-Z]?,?[ ]{_WORD}(?:(?:[ ]{_WORD}){{1,4}}?|(?=[ ]\d))"
    rf"(?:[ ]\d{{1,4}}[a-zA-Z]?)?[\s,?]{{1,8}}"
    rf"{_UNIT}\b[. #]{{0,3}}\Z",
    re.IGNORECASE,
)
_NAME_BEFORE = re.compile(rf"{_CAPITAL}[ ]\Z")
_STREET_AFTER = re.compile(r"\.?[ ](?:street|road|avenue|st\.)(?!\w)", re.IGNORECASE)
_LOOK_BACK, _LONGEST = 110, 24
# Before new text: what announces an address, with the address; the last number of that.
_REACH, _AFTER_NUMBER, _BESIDE_NUMBER = 384, 192, 32
_CUES = Cues(
    any_of((*_ANNOUNCING, *_SAYING_WHERE)).search,
    longest=max(map(len, (*_ANNOUNCING, *_SAYING_WHERE))),
    within=_REACH,
)
_DIGIT, _WORDS = re.compile(r"\d"), re.compile(r"[^\W\d_]{2,}")


class AnnouncedAddressDetector:
    """Finds addresses that are announced, or whose parts say what they are.

    These are addresses after "my address is" or "please return to", a word of a street in one of
    twenty languages with a number, and a house before an apartment or a suite.
    """

    name = "announced-address"
    labels: Sequence[str] = ("ADDRESS",)
    #: Characters before new text that may take part in a new finding.
    reach = _REACH

    def detect(self, text: str) -> Sequence[Span]:
        """Return the addresses of a text."""
        if _DIGIT.search(text) is None:
            return []
        found = set(_by_number(text))
        lower = text.lower()
        if any(word in lower for word in _ANNOUNCING):
            found.update(_announced(text, _ANNOUNCED))
        if any(word in lower for word in _SAYING_WHERE):
            found.update(_announced(text, _GOING))
        return sorted(found)

    def may_find(self, grown: Growing) -> bool:
        """Return whether new text may make a finding: a digit is in it or near it."""
        # What is announced may go on for longer than what only its number tells.
        return grown.since_digit <= _BESIDE_NUMBER or (
            grown.since_digit <= _AFTER_NUMBER and _CUES.near(grown)
        )


def _announced(text: str, pattern: re.Pattern[str]) -> Iterator[Span]:
    for match in pattern.finditer(text):
        words = _WORDS.findall(match["address"])
        if (
            words
            and not _NUMBERED.intersection(map(str.lower, words))
            and not (_FUNCTION_WORDS.intersection(words) and match["address"][0].isdigit())
        ):
            yield Span(match.start("address"), match.end(), "ADDRESS")


def _by_number(text: str) -> Iterator[Span]:
    """Yield the addresses that a number ends, by the words before or behind it."""
    for number in _NUMBERS.finditer(text):
        start = number.start()
        first = max(0, start - _LOOK_BACK)
        # The searches are for the few numbers that follow one of the words.
        words = text[max(0, start - _LONGEST) : start].lower().replace("#", " ").split()
        word = words[-1].rstrip(".") if words else ""
        if word in _STREET_WORDS:
            street = _BEFORE_NUMBER.search(text, first, start)
            if street and _is_name(street["name"], word):
                yield Span(street.start(), number.end(), "ADDRESS")
        elif word in _UNIT_WORDS:
            if (house := _BEFORE_UNIT.search(text, first, start)) is not None:
                yield Span(house.start(), number.end(), "ADDRESS")
        elif word and (after := _STREET_AFTER.match(text, number.end())) is not None:
            name = _NAME_BEFORE.search(text, first, start)
            if name is not None and word not in _NUMBERED:
                yield Span(name.start(), after.end(), "ADDRESS")


def _is_name(name: str, street: str) -> bool:
    """Return whether a word before a word of a street is the street's name.

    The short ones of these words mean something else in other languages.
    """
    if name.lower() in _FUNCTION_WORDS:
        return False
    return name[0].isupper() or len(street) >= len("allee")
