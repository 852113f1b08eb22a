"""Finds what belongs to private findings and no detector knows, before they are replaced.

Who lives at an address, or which firm has its office there, is told by how the text is built: by
the line above, by "'s address:", or by another field of the same form. Whether a text may leave
does not depend on this. It makes sure that redaction leaves no piece beside a placeholder that
tells the rest.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from floe_plugins.gate.detector import Span
from floe_plugins.gate.whole_values import REQUESTS, names_somebody

#: Characters before and after a finding that are read.
NEAR = 200

_NAME = r"(?:[^\W\d_a-zß-öø-ÿ][\w'’-]*)"
_NAMES = rf"{_NAME}(?:[ ]{_NAME}){{0,2}}"
_FIRM = r"(?:[\w&'’+-]+[.,]?[ ]){0,5}[\w&'’+-]+\.?"
# Written small, "ms", "miss" and "dr" are more often a unit, a verb and a street.
_TITLE = r"(?:[Mm]rs?|M(?:s|iss|x)|Dr|Prof|Herrn?|Frau|Mme|Mlle|Sig(?:\.ra|ra)?|Sra?)"
_TITLE_BEFORE = re.compile(rf"(?<!\w){_TITLE}\.?[ ]\Z", re.IGNORECASE)
_PLACES = r"(?:office|shop|store|branch|clinic|practice|headquarters|school)"
_CONTACT = (
    r"(?:address|phone|mobile|number|e-?mail|house|home|place|flat|apartment|birthday|card|account)"
)

# What separates the name of a field from its value in a form or in code, and what a value is.
_IS = r"[\"']?[ \t]?[:=][ \t]{0,8}[\"']?"
_VALUE = rf"({_NAME}(?:[ -](?:{_NAME}|&|and|und|et|y|of|de|der|am)){{0,4}})(?![\w(.\[<=:])"
_IN_FORM = r"(?:^|(?<=[\n\"'{,;(|>])|(?<=[\n\"'{,;(|>][ ]))"

# Before an address, a number or the like: who has it.
_OWNERS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "ORGANIZATION",
        re.compile(
            rf"\b[Tt]he[ ]({_FIRM})[ ]{_PLACES}[ ](?:is|was|has|moved|now)[ ]"
            r"(?:now[ ]|moved[ ]|located[ ]){0,2}(?:(?:at|in|to)\s+)?\Z"
        ),
    ),
    (
        "ORGANIZATION",
        re.compile(rf"\b(?:address|office|headquarters)[ ]of[ ](?:the[ ])?({_FIRM})[ ]is:?\s+\Z"),
    ),
    (
        "PERSON",
        re.compile(
            rf"(?:^|[\n>\])][ ]?)({_NAME}(?:[ ]{_NAME})?):[ ](?:\w+[ ]){{0,3}}"
            r"(?:my|I(?:['’]m)?|meine?|ich|mon|ma|mi|mio|mia)\b[^\n]{0,60}\Z"
        ),
    ),
    (
        "PERSON",
        re.compile(
            rf"(?<![\w-])([^\W\d_][\w-]*)['’]s?[ ](?:\w+[ ]){{0,2}}{_CONTACT}(?:[ ]is)?[ ]?:?\s+\Z",
            re.IGNORECASE,
        ),
    ),
    (
        "PERSON",
        re.compile(rf"\b({_NAME})[ ](?:had[ ])?(?:given|gave|sent|told|shown)\b[^.\n]{{0,40}}\Z"),
    ),
    (
        "PERSON",
        re.compile(
            rf"\b(?:given|gave|sent|told|shown)[ ]({_NAME})[ ](?:his|her|their|the)[ ]{_CONTACT}\b"
            r"[^.\n]{0,12}\Z"
        ),
    ),
)
# Around any finding: people and places of whom the text speaks.
_BESIDE: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("PERSON", re.compile(rf"(?<!\w){_TITLE}\.?[ ]({_NAMES})")),
    (
        "ORGANIZATION",
        re.compile(
            rf"{_IN_FORM}(?i:employer|company|firma|arbeitgeber|soci[ée]t[ée]|employeur|entreprise"
            rf"|empresa|azienda|ditta){_IS}{_VALUE}"
        ),
    ),
    (
        "LOCATION",
        re.compile(
            rf"{_IN_FORM}(?i:city|town|ort|wohnort|stadt|ville|ciudad|citt[àa]|comune){_IS}{_VALUE}"
        ),
    ),
    (
        "ADDRESS",
        re.compile(
            rf"{_IN_FORM}(?:CAP|(?i:zip(?:[ _-]?code)?|plz|postleitzahl|post(?:al)?[ _-]?code"
            rf"|code[ ]postal|c[óo]digo[ ]postal)){_IS}(\d[\d -]{{2,8}}\d)\b"
        ),
    ),
    (
        "ADDRESS",
        re.compile(
            rf"{_IN_FORM}(?i:house[ _-]?(?:no\.?|number)|hausnummer|hausnr\.?|haus-nr\.?){_IS}"
            r"(\d{1,5}[ ]?[a-z]?)\b"
        ),
    ),
    ("PERSON", re.compile(rf"\bcalls?[ ]me[ ]({_NAME})")),
    (
        "LOCATION",
        re.compile(
            r"\b(?:I(?:['’]m|[ ]am)|gr[eo]wn?[ ]up|born|(?:and|was|were)[ ]raised|live[sd]?|based"
            r"|stay(?:s|ed|ing)?)"
            rf"[ ]in[ ]({_NAMES})"
        ),
    ),
)
# Words with a capital letter that name nobody, and what people are "in" that is no place.
_NO_NAME = re.compile(
    r"I|you|he|she|it|we|they|who|one|some(?:one|body)|every(?:one|body)|no(?:body)?|any(?:one|body)"
    r"|here|there|this|that|these|those|what|where|when|how|why|let|the|an?|my|your|our|his|her"
    r"|their|its|and|but|or|so|if|then|in|on|at|for|please|yes|not|also|back|maybe"
    r"|customer|client|user|human|assistant|system|bot|agent|company|noon|home|work|night|re|ps|me"
    r"|question|note|answer|task|context|summary|role|goal|background|prompt|input|output|request"
    r"|problem|issue|instructions?|example|hint|reminder|update|fyi|info|details|story|message|text"
    r"|title|bio|about|objective|aufgabe|kontext|rolle|ziel|hinweis|frage|antwort|contexte|objectif"
    r"|tâche|contexto|tarea|contesto|compito|today|tomorrow|tonight|yesterday|now|later"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day|software|senior|staff|data|product|project|sales"
    r"|developer|engineer|manager|analyst|consultant|director|designer|excel",
    re.IGNORECASE,
)
_NO_PLACE = re.compile(
    r"january|february|march|april|may|june|july|august|september|october|november|december|spring"
    r"|summer|autumn|winter|python|java(?:script)?|typescript|rust|go|sql|bash|word|html|css|class"
    r"|grade|chapter|section|part|year|step|line|phase|charge|touch|love|trouble|hr|str(?:ing)?"
    r"|text|varchar|int|none|null|true|false|optional|any|name|city|state|unknown",
    re.IGNORECASE,
)
# An appointment: "Sunday at the Blue Door, 5 Elm Street".
_DAY = r"(?:(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|[Tt]oday|[Tt]omorrow|[Tt]onight)"
_APPOINTMENT = re.compile(rf"\b{_DAY}[ ]at[ ](?:{_FIRM}(?:,[ ]?|[ ]and[ ]|[ ]))?\Z", re.IGNORECASE)
# Where the address is: "at the Blue Door, 5 Elm Street".
_VENUE = re.compile(rf"\bat[ ](?:the[ ])?({_NAME}(?:[ ]{_NAME}){{0,3}}),[ ]?\Z")
# A first name before a found name, in a sentence: "with Bob" before "Carter". What an article or
# "my" precedes is what somebody is, as "mein Chef".
_FIRST_NAME = re.compile(
    r"(?:(?<!\w)(?!(?:the|an?|my|our|your|his|her|their|d(?:er|ie|as|e[mns])|(?:m|d|s)?eine?[mnrs]?"
    r"|ihre?[mnrs]?|unsere?[mnrs]?|l[aeo]s?|el|il|une?|una|mon|ma|mi|su|mi[oa]|su[oa])[ ])"
    r"[a-zß-öø-ÿ]{1,24},?|\d[.)])[ ]"
    r"(?!(?:C[EFT]O|President|Chancellor|King|Queen|Pope|Minister|Senator|Governor|Captain|Uncle"
    rf"|Aunt|Onkel|Tante|Doctor|Professor|Dear)[ ])({_NAME})[ ]\Z"
)
_POST_CODE = re.compile(r"[ ,]{1,3}\d{4,6}\b(?![.,:/-]?\d)")
_NO_STREET = r"(?:at|in|to|on|is|from|for|by|near|and|or|an?|am|pm|bei|im|als|sur|con)"
_NUMBER_BEFORE = re.compile(
    rf"(?<!\S)\d{{1,4}}[ ](?:(?!{_NO_STREET}[ ])(?:{_NAME}|[^\W\d_]{{1,4}}\.?)[ ]){{1,3}}"
    r"(?:\d{1,4}\.?)?\s*\Z"
)
_CORNER = re.compile(rf"[ ]and[ ](?:{_NAME}[ ]){{1,3}}\d{{1,4}}\b")
_JOINED = re.compile(rf"[.,]?[ ](?:{_NAME}[ ])?(?:and|und|et|e|y)[ ]")
# A field of a form, and what a date and time look like there.
_DATE_FIELD = re.compile(
    r"^[ \t]*[^\W\d_][\w ]{0,20}:[ \t]*"
    r"(\d{4}-\d\d-\d\d(?:[ T][\d:.]{4,12})?|\d\d?[./]\d\d?[./]\d{2,4})",
    re.MULTILINE,
)
_FIELD_BEFORE = re.compile(r"(?:^|\n)[ \t]*[^\W\d_][\w ]{0,20}:[ \t]*\Z")

# The head of a letter: signs before a line, and what its lines do not begin or end with.
_SIGNS = "?>#*|, \t\r\xa0"
_MOST_SIGNS = 12
_NO_HEAD = re.compile(
    rf"(?:{REQUESTS}|Hello|Hi|Hey|Dear|Thanks?|I|We|You|My|Your|Our|This|That|It|If|Send|Ship"
    r"|Return|Deliver|Address|From|To|Options?|Contact|Imprint|Cheers|Sincerely|Hallo|Guten|Liebe[rs]?"
    r"|Sehr|Danke|Vielen|Viele|Meine?[mnrs]?|Unsere?[mnrs]?|Kontakt|Impressum|Bonjour|Merci|Notre"
    r"|Contacts|Hola|Querid[oa]|Gracias|Nuestr[oa]|Contacto|Ciao|Grazie|Nostr[oa]|Contatti"
    r"|TODO|FIXME|SELECT|\d{1,2}[.)](?=[ ])|[-–•+](?=[ ]))(?!\w)|[^\w]*\Z",
    re.IGNORECASE,
)
# The title of what follows.
_TITLE_OF = re.compile(
    r"(?<!\w)(?:address|\w*adresse|\w*anschrift|direcci[oó]n|indirizzo|domicili[oe]|regards|wishes"
    r"|gr[uü](?:ß|ss)en?|saludos|saluti|cordialement)\Z",
    re.IGNORECASE,
)
_CODE = re.compile(r"[{}<>=;`\[\]]|\(\)")
_MOST_LINES, _MOST_WORDS, _MOST_CHARS = 4, 6, 60
# Of a text without capital letters: it may as well be a sentence.
_MOST_SMALL = 3
# In a script without capital letters, too.
_MOST_UNCASED = 16

#: Labels of what an address begins or goes on with.
_NAMES_OF = ("ADDRESS", "LOCATION", "ORGANIZATION", "PERSON")


def linked_values(
    text: str, spans: Collection[Span], *, streets: Collection[Span], bounds: tuple[int, int]
) -> Iterator[Span]:
    """Yield what belongs to private findings, by its places in the text.

    Parameters
    ----------
    text : str
        The text of the findings.
    spans : collection of Span
        Private findings that are whole values.
    streets : collection of Span
        Those that are a part of an address.
    bounds : tuple of int
        Beginning and end of what is read.

    Yields
    ------
    Span
        With a label of names, or that of the finding to which it belongs.
    """
    begin, text = bounds[0], text[slice(*bounds)]
    places = _apart(
        (span.start - begin, span.end - begin, span.label, span in streets) for span in spans
    )
    joined = [
        _Place(one.start, other.end, other.label, one.street or other.street)
        for one, other in pairwise(places)
        if _may_join(one, other) and _JOINED.fullmatch(text, one.end, other.start)
    ]
    for place in joined:
        yield Span(place.start + begin, place.end + begin, place.label)
    small = text == text.lower()
    found = [each for place in (*places, *joined) for each in _of(text, place, small=small)]
    for label, start, end in (*found, *_beside(text, places, small=small)):
        yield Span(start + begin, end + begin, label)


class _Place(NamedTuple):
    """Where one finding is, or several that overlap."""

    start: int
    end: int
    label: str
    street: bool


def _apart(places: Iterable[tuple[int, int, str, bool]]) -> list[_Place]:
    """Return places that do not overlap, in order, each with the label of its longest one."""
    found: list[list[_Place]] = []
    end = 0
    for place in map(_Place._make, sorted(places)):
        if not found or place.start >= end:
            found.append([])
        found[-1].append(place)
        end = max(end, place.end)
    return [
        _Place(
            group[0].start,
            max(place.end for place in group),
            max(group, key=lambda place: place.end - place.start).label,
            any(place.street for place in group),
        )
        for group in found
    ]


def _may_join(one: _Place, other: _Place) -> bool:
    """Return whether two findings may be streets of one corner, or parts of a firm's name."""
    return all(place.label in _NAMES_OF for place in (one, other)) and any(
        place.street or place.label in ("ADDRESS", "ORGANIZATION") for place in (one, other)
    )


def _of(text: str, place: _Place, *, small: bool) -> Iterator[tuple[str, int, int]]:
    """Yield label, beginning and end of what belongs to the finding at a place."""
    start, end, label, street = place
    least, most = max(0, start - NEAR), min(len(text), end + NEAR)
    if label == "PERSON":
        first = _FIRST_NAME.search(text, max(0, start - 64), start)
        if first is not None and _may_be(label, first[1], small=small):
            yield label, first.start(1), end
    if label in _NAMES_OF:
        title = _TITLE_BEFORE.search(text, max(0, start - 8), start)
        if title is not None:
            yield label, title.start(), end
    for name, pattern in _OWNERS:
        owner = pattern.search(text, least, start)
        if owner is not None and _may_be(name, owner[1], small=small):
            yield name, *owner.span(1)
    if _FIELD_BEFORE.search(text, max(0, start - 40), start):
        for date in _DATE_FIELD.finditer(text, text.rfind("\n", 0, least) + 1, most):
            yield "DATE_TIME", *date.span(1)
    if not street and label not in _NAMES_OF:
        return
    appointment = _APPOINTMENT.search(text, max(0, start - 80), start)
    if appointment is not None:
        yield label, appointment.start(), end
    for pattern in (_CORNER, _POST_CODE):
        after = pattern.match(text, end)
        if after is not None:
            yield label, start, after.end()
    if street:
        number = _NUMBER_BEFORE.search(text, max(0, start - 32), start)
        if number is not None:
            yield label, number.start(), end
        venue = _VENUE.search(text, max(0, start - 80), start)
        if venue is not None and _may_be("ORGANIZATION", venue[1], small=small):
            yield "ORGANIZATION", *venue.span(1)
        head = _head(text, start, small=small)
        if head is not None:
            yield label, head, end


def _beside(text: str, places: Iterable[_Place], *, small: bool) -> Iterator[tuple[str, int, int]]:
    """Yield label, beginning and end of people, firms and places around findings."""
    around: list[tuple[int, int]] = []
    for place in places:
        least, most = max(0, place.start - NEAR), min(len(text), place.end + NEAR)
        if around and least <= around[-1][1]:
            least, _ = around.pop()
        around.append((least, most))
    for least, most in around:
        for label, pattern in _BESIDE:
            for found in pattern.finditer(text, least, most):
                if _may_be(label, found[1], small=small):
                    yield label, *found.span(1)


def _may_be(label: str, words: str, *, small: bool) -> bool:
    """Return whether words at the place of a name, or of where somebody is, may be that."""
    # A firm may be named "Home Depot".
    first = words if label == "ORGANIZATION" else words.split()[0]
    if _NO_NAME.fullmatch(first) or (label == "LOCATION" and _NO_PLACE.fullmatch(first)):
        return False
    return small or not words[0].islower()


def _head(text: str, start: int, *, small: bool) -> int | None:
    """Return where the lines begin that name who has the address below them; None for none."""
    begin = _line_begin(text, start, _MOST_SIGNS)
    if begin is None or text[begin:start].strip(_SIGNS):
        return None
    commented = "#" in text[begin:start]
    found = None
    blanks = 0
    for _ in range(_MOST_LINES + 1):
        above = _line_begin(text, begin - 1, _MOST_CHARS + _MOST_SIGNS) if begin > 0 else None
        if above is None:
            break
        whole = text[above : begin - 1]
        line = whole.strip(_SIGNS)
        begin = above
        if not line:
            blanks += 1
            if blanks > 1 or found is not None:
                break
            continue
        if not _is_of_a_head(line) or (whole.startswith("#") and not commented):
            break
        words = line.split()
        if (small and len(words) <= _MOST_SMALL) or _names(words):
            found = above + whole.find(line)
    return found


def _line_begin(text: str, at: int, most: int) -> int | None:
    """Return where the line begins that goes on at a place; None if that is further away."""
    least = max(0, at - most)
    begin = text.rfind("\n", least, at) + 1
    return begin if begin > 0 or least == 0 else None


def _is_of_a_head(line: str) -> bool:
    return not (
        len(line.split()) > _MOST_WORDS
        or len(line) > _MOST_CHARS
        or line[-1] in ":;!?"
        or _NO_HEAD.match(line)
        or _TITLE_OF.search(line)
        or _CODE.search(line)
    )


def _names(words: list[str]) -> bool:
    """Return whether the words of a line are those of a name, and no sentence without capitals."""
    uncased = [word for word in words if word.isalpha() and word.lower() == word.upper()]
    return names_somebody(words) and sum(map(len, uncased)) <= _MOST_UNCASED
