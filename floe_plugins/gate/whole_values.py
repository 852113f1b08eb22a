"""Widens findings to whole values before they are replaced: a piece that stays tells the rest.

Detectors find the part of an address that looks like one, "68 Hulsterdreef 100", and not what
follows, "København K, Sweden 36018"; or a part of a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence, Set
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from floe_plugins.gate.detector import Span

#: Labels of names, of which a hyphen joins two.
_NAMES = frozenset({"ADDRESS", "LOCATION", "PERSON", "ORGANIZATION"})

# Scripts that put spaces between words. In others the end of a value is no place between letters.
_SPACED = re.compile(
    r"[A-Za-z\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u0300-\u07ff"
    r"\u10a0-\u10ff\u1e00-\u1fff]"
)
# What joins characters to one: the zero width joiner, variation selectors, tones of skin.
_JOINS = re.compile("[\u200d\ufe00-\ufe0f\U0001f3fb-\U0001f3ff]")

_TOKEN = re.compile(r"[^\W_][\w.'’/-]*")
_GAP = re.compile(
    r"\.[ ](?=(?:Stock|Stiege|Etage|OG|Obergeschoss|Floor)\b)|[ \t]{0,3}[,(–-]?[ \t]{0,3}"
)
# Initials before a name, and the last digits of a telephone number.
_INITIALS = re.compile(r"(?<!\w)(?:[^\W\d_a-zß-öø-ÿ]\.?[ ]?){1,3}\Z")
_MORE_DIGITS = re.compile(r"(?:[ /-]\d{1,4}){1,4}\b(?![.,:]?\d)")
_LINE_END = re.compile(r"[ \t]*[,.;?!)]?[ \t]*(?:\r?\n|\Z)")
_LINE_BEGIN = re.compile(r"[>?#*|,\t ]{0,8}")
_BLANK_LINE = re.compile(r"[ \t]*\r?\n")
_BEFORE = re.compile(r"([^\W_][\w.'’/-]*)[ ]\Z")
_LINE_BEFORE = re.compile(r"([^\W_][\w.'’/-]*)[ ]?\r?\n[ ]?\Z")
_CORNER = re.compile(r"\b(?:the[ ])?corner[ ]of[ ]\Z", re.IGNORECASE)
_POST_CODE = re.compile(r"\d{4}")
# A post code; a number of five digits at the beginning of an address may be a house's.
_CODED = re.compile(r"(?:[,\n][ ]?|[^\W\d_][ ])\d{5}\b|[,\n][ ]?\d{4}[ ][^\W\d_]{2}")
# A date begins the letter that follows a blank line.
_YEAR_LINE = re.compile(r"[^\n]{0,40}\b(?:19|20)\d\d[ \t\r]*(?:\n|\Z)")
_CODE_AFTER = re.compile(r"(?:,[ ]?|[ ]{1,2})\d{4,6}\b")
# A region's abbreviation may be written small where an address ends.
_REGION = 4
_ENDS = re.compile(r"[ \t]*(?:[.?!,][ \t]*)?(?:\r?\n|\Z)|[.?!][ ]")
# The post offices of the United States' forces, whose ships and units stand in the line before.
_FORCES = re.compile(r"\s*(?:APO|FPO|DPO)\b", re.IGNORECASE)
#: Words that begin what somebody asks for, and no name or address.
REQUESTS = (
    r"Add|Answer|Ask|Buy|Calculate|Check|Compare|Convert|Create|Describe|Draft|Edit|Explain|Find"
    r"|Fix|Generate|Give|Help|Improve|List|Make|Pay|Read|Rewrite|Show|Solve|Suggest|Summari[sz]e"
    r"|Tell|Translate|Use|Write|Can[ ](?:you|we|I)|Could|Would|Should|What|When|Where|Who|Why|How"
    r"|Which|Please|Let|Question|Note|Subject|Betreff|Bitte|Schreibe?n?|Erkläre?n?|Übersetzen?"
    r"|Objet|Écri[rsv]\w*|Expliquez?|Traduis\w*|Asunto|Por[ ]favor|Escrib[ae]|Expli(?:ca|que)"
    r"|Traduce|Oggetto|Scrivi|Spiega|Traduci|Per[ ]favore"
)
# Words that begin a line after an address, and none of one.
_NO_LINE = re.compile(
    rf"(?:{REQUESTS}|Thanks?|Best|Kind|Warm|Yours|Sincerely|Regards|Call|This|That|These|They|Then"
    r"|We|The|It|If|You|My|Your|Our|Danke|Merci|Gracias|Grazie|Dear|Hello|Hi|Hey|Sehr|Liebe[rs]?"
    r"|Hallo|Guten|Mit|Viele|Ch[eè]re?s?|Bonjour|Cordialement|Estimad[oa]s?|Querid[oa]s?|Hola|Buen[oa]s"
    r"|Saludos|Atentamente|Car[oaie]|Gentile|Gent|Egregio|Spett|Ciao|Buongiorno|Cordiali|Distinti)\b"
)
# Parts of an address that begin with a small letter, if a name follows them.
_SMALL = re.compile(
    r"and|of|the|del?|della|di|d[aoue]s?|degli|l[aeo]s?|el|[yeà]|et|am|an|de[mnr]|i[mn]|zu|ob|bei"
    r"|und|upon|on|by|near|na[d]?|pod|u|v|sur|sous|en|op|aan|van"
)
# Parts of the name of a person or a firm that begin with a small letter.
_OF_FIRMS = re.compile(
    r"and|of|the|for|di|da|do|des?|del|la|van|von|und|y|e|&|n['’]|inc\.?|ltd\.?|llc|gmbh",
    re.IGNORECASE,
)
# Words after an address in a text without capital letters.
_GOES_ON = re.compile(
    r"a|an|and|as|at|because|before|after|but|by|if|for|from|in|is|it|i|my|now|on|or|please|since"
    r"|so|that|the|then|there|this|to|today|tomorrow|until|was|we|when|where|which|who|why|will"
    r"|with|you|your|do|does|can|are|has|have|had|last|next|just|thanks|und|oder|ist|im|mit|für"
)
_MOST_TOKENS, _MOST_OF_LINE, _MOST_LINES, _MOST_OF_COUNTRY = 10, 6, 4, 2
_LONGEST_WORD, _CHARS_BEFORE = 32, 64
#: A word with a full stop that is longer ends a sentence.
_ABBREVIATION = 5
# What a full stop does not end, if it stands in an address.
_SHORTENED = re.compile(
    r"(?:Apto?|App|Bldg|Bât|Rés|Esc|Fl|Int|No|Nr|Pl|Pta|Rm|Sc|Stg|Ste|Top|Tür|Wg|Whg)\."
    r"(?=[ ]?(?:\d|\w{1,2}\b))",
    re.IGNORECASE,
)
_NAME_LETTERS = 4
#: What stands before the text of a line.
_LINE_SIGNS = ">?#*|,\t\r "
#: Lines between a name and an address in a letter's head, their characters and words.
_MOST_BETWEEN, _LONGEST_LINE, _MOST_WORDS = 3, 60, 6


def whole_values(
    text: str, spans: Collection[Span], *, streets: Collection[Span], bounds: tuple[int, int]
) -> dict[Span, Span]:
    """Return for each finding the whole value that it is a part of.

    Parameters
    ----------
    text : str
        The text of the findings.
    spans : collection of Span
        Private findings.
    streets : collection of Span
        Those that are a part of an address.
    bounds : tuple of int
        Beginning and end of what is read.

    Returns
    -------
    dict of Span to Span
        The same spans, or wider ones with the same labels.
    """
    begin, text = bounds[0], text[slice(*bounds)]
    small = text == text.lower()
    places = []
    for span in spans:
        # A finding may end in what separates messages.
        start, end = span.start - begin, min(span.end - begin, len(text))
        if span in streets:
            start, end = _before(text, start, end), _after(text, start, end, small)
        start, end = _whole_words(text, start, end, hyphens=span.label in _NAMES)
        if span.label == "PERSON":
            start = _with_initials(text, start)
        elif span.label == "PHONE":
            end = _end_of(_MORE_DIGITS, text, end)
        places.append((start, end))
    heads = {place for span, place in zip(spans, places, strict=True) if span in streets}
    places = _over_lines(text, places, heads)
    return {
        span: replace(span, start=start + begin, end=end + begin)
        for span, (start, end) in zip(spans, places, strict=True)
    }


def _after(text: str, start: int, end: int, small: bool) -> int:
    """Return where the address ends of which a part stands at a place.

    Below the last line with a post code there is the country at most.
    """
    while end > start and text[end - 1].isspace():
        end -= 1
    tokens = 0
    for token in _parts(text, end, small=small):
        end, tokens = token.end, tokens + 1
        if token.ends_sentence or tokens == _MOST_TOKENS:
            return end
    begin = start
    for number in range(_MOST_LINES):
        line_end = _LINE_END.match(text, end)
        after = (
            None if line_end is None else _line(text, line_end.end(), small=small, later=number > 0)
        )
        if after is None:
            break
        coded = _CODED.search(text, begin, end) and not _CODED.search(text, end, after)
        if coded and len(text[end:after].split()) > _MOST_OF_COUNTRY:
            break
        begin, end = end, after
        if coded:
            break
    return end


def _line(text: str, begin: int, *, small: bool, later: bool) -> int | None:
    """Return the end of what belongs to an address in the next line; None if nothing does.

    One of the `later` lines may begin with a country, and go on as a sentence.
    """
    blank = _BLANK_LINE.match(text, begin)
    if blank is not None:
        begin = blank.end()
    end = _end_of(_LINE_BEGIN, text, begin)
    if _NO_LINE.match(text, end) or (blank is not None and _YEAR_LINE.match(text, end)):
        return None
    code = None
    for number, token in enumerate(_parts(text, end, small=small, line=True), 1):
        if number > _MOST_OF_LINE:
            return code
        end = token.end
        if token.is_code or (later and blank is None and not small and token.is_name):
            code = end
        if token.ends_sentence:
            break
    # A line that goes on as a sentence belongs to the address up to its post code.
    whole = _LINE_END.match(text, end) is not None and _TOKEN.search(text, begin, end) is not None
    return end if whole and blank is None else code


class _Part(NamedTuple):
    """A part of an address."""

    end: int
    is_code: bool
    is_name: bool
    ends_sentence: bool


def _parts(text: str, end: int, *, small: bool, line: bool = False) -> Iterator[_Part]:
    """Yield the parts of an address behind a place, or of a line from its beginning on.

    A text of `small` letters alone does not tell names by their first letters.
    """
    begins = line
    after_comma = False
    while True:
        gap_end = end if begins else _end_of(_GAP, text, end)
        after_comma = after_comma or "," in text[end:gap_end]
        token = _TOKEN.match(text, gap_end)
        begins = False
        if token is None or len(token[0]) > _LONGEST_WORD:
            return
        word = token[0].rstrip(".'’/-")
        end = token.start() + len(word)
        if _is_part(word) or (small and (line or after_comma or not _GOES_ON.fullmatch(word))):
            code = _POST_CODE.match(word) is not None
            stops = token[0][-1] == "." and len(word) > _ABBREVIATION
            yield _Part(end, code, word.isalpha() and len(word) >= _NAME_LETTERS, stops)
            after_comma = after_comma and not code
            if _SHORTENED.match(text, token.start()):
                end = token.end()
        elif _CODE_AFTER.match(text, end):
            # A small word before a post code belongs to the address, whatever it is.
            yield _Part(end, is_code=False, is_name=False, ends_sentence=False)
        elif word.isalpha() and len(word) <= _REGION and _ENDS.match(text, end):
            ends = token[0][-1] == "." and text[end + 1 : end + 2] == " "
            yield _Part(end, is_code=False, is_name=False, ends_sentence=ends)
            return
        elif _SMALL.fullmatch(word) is None:
            return


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()


def _is_part(word: str) -> bool:
    """Return whether a word may be a name or a number of an address."""
    return not word[0].islower()


def _before(text: str, start: int, end: int) -> int:
    """Return where the address begins of which a part stands at a place."""
    alone = _LINE_END.match(text, end) is not None
    at = start
    pattern = _LINE_BEFORE if _FORCES.match(text, start) else _BEFORE
    for _ in range(_MOST_OF_LINE):
        found = pattern.search(text, max(0, at - _CHARS_BEFORE), at)
        pattern = _BEFORE
        if found is None or not (_is_part(found[1]) or _SMALL.fullmatch(found[1])):
            break
        whole = found[1][0].isdigit() or (alone and at == start)
        if not whole and _begins_line(text, found.start()):
            # The first word of a sentence has a capital letter, too.
            break
        at = found.start()
        if _is_part(found[1]):
            start = at
    corner = _CORNER.search(text, max(0, start - _CHARS_BEFORE), start)
    return start if corner is None else corner.start()


def _begins_line(text: str, at: int) -> bool:
    before = text[max(0, at - 8) : at].rstrip(" \t")
    return not before or before[-1] in "\n.!?"


def _over_lines(
    text: str, places: Sequence[tuple[int, int]], addresses: Set[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Widen a name that is a line of its own to what is found some lines below, as in a letter.

    Between a name and its address, or an address and its telephone number, stand a firm, a
    profession or a town, which no detector need know. Between others only what is written as a
    name: the lines of a chat stay.
    """
    wider = {}
    for place, below in pairwise(sorted({*places})):
        (start, end), following = place, below[0]
        between = text[end:following].split("\n")
        if (
            2 < len(between) <= _MOST_BETWEEN + 2
            and not between[0].strip(" \t\r,")
            and not between[-1].strip(_LINE_SIGNS)
            and not text[text.rfind("\n", 0, start) + 1 : start].strip(_LINE_SIGNS)
            and all(map(_is_of_a_head, between))
            and (not addresses.isdisjoint((place, below)) or all(map(_is_name, between)))
        ):
            last = text[start:following].rstrip(_LINE_SIGNS + "\n")
            wider[start, end] = start, start + len(last)
    return [wider.get(place, place) for place in places]


def _is_of_a_head(line: str) -> bool:
    """Return whether a line may name a firm or a profession, and is no sentence."""
    line = line.strip(_LINE_SIGNS)
    return (
        len(line) <= _LONGEST_LINE
        and len(line.split()) <= _MOST_WORDS
        and not line.endswith(("?", "!", ":", ";", "{", "}", ")"))
        and not _NO_LINE.match(line)
    )


def _is_name(line: str) -> bool:
    words = line.strip(_LINE_SIGNS).split()
    return not words or names_somebody(words)


def names_somebody(words: Sequence[str]) -> bool:
    """Return whether all words of a line are written as in the name of a person or a firm."""
    return not words[0][0].islower() and all(
        not word[0].islower() or _OF_FIRMS.fullmatch(word) for word in words
    )


def _whole_words(text: str, start: int, end: int, *, hyphens: bool) -> tuple[int, int]:
    """Widen a place so that it ends in no word, number or character of several code points."""
    while start > 0 and _is_one(text, start, hyphens):
        start -= 1
    while end < len(text) and _is_one(text, end, hyphens):
        end += 1
    return start, end


def _with_initials(text: str, start: int) -> int:
    """Return where a name begins that is found from its second initial or full stop on."""
    found = _INITIALS.search(text, max(0, start - _CHARS_BEFORE), start)
    return start if found is None or "." not in text[found.start() : start + 2] else found.start()


def _is_one(text: str, at: int, hyphens: bool) -> bool:
    """Return whether the characters before and after a place belong together."""
    before, after = text[at - 1], text[at]
    if unicodedata.combining(after) or _JOINS.match(after) or before == "\u200d":
        return True
    if before.isdigit() and after.isdigit():
        return True
    letters = _SPACED.match(before), _SPACED.match(after)
    if all(letters):
        return True
    if not hyphens:
        return False
    behind, ahead = text[at - 2 : at - 1] if at > 1 else "", text[at + 1 : at + 2]
    return bool(
        (after == "-" and letters[0] and _SPACED.match(ahead))
        or (before == "-" and letters[1] and _SPACED.match(behind))
    )
