"""Dates of birth and ages, in words and figures, in five languages."""

import re
from collections.abc import Iterator

from floe_plugins.gate.detector import Span

_MONTHS = (
    "jan(?:uary|uar|vier)?|feb(?:ruary|ruar)?|février|fevrier|mar(?:ch|s|zo)?|märz|apr(?:il|ile)?"
    "|avril|may|mai|ma[yg]g?io|june?|juni|juin|july?|juli|juillet|aug(?:ust)?|août|aout|sept?"
    "(?:ember|embre|iembre)?|settembre|setiembre|o[ck]t(?:ober|obre|ubre)?|ottobre|nov(?:ember|embre"
    "|iembre)?|noviembre|de[cz](?:ember|embre)?|décembre|dicembre|diciembre|enero|febrero|abril|mayo"
    "|junio|julio|agosto|gennaio|febbraio|aprile|maggio|giugno|luglio"
)
_TENTHS = "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth"
_ORDINALS = (
    rf"(?:twenty|thirty)[ -](?:{_TENTHS})|{_TENTHS}|tenth|eleventh|twelfth|thirteenth|fourteenth"
    "|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|twentieth|thirtieth"
)
_UNITS = "one|two|three|four|five|six|seven|eight|nine"
_YEAR = (
    r"(?:(?:19|20)\d\d(?!\d)|(?:nineteen|twenty|two[ ]thousand(?:[ ]and)?)[ -](?:oh[ -])?(?:hundred"
    rf"|ten|eleven|twelve|\w{{3,6}}teen|(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)"
    rf"(?:[ -](?:{_UNITS}))?|{_UNITS}))"
)
_DAY = rf"(?:\d{{1,2}}(?:st|nd|rd|th|er|\.|º|°)?|(?:the[ ])?(?:{_ORDINALS}))"
_OF = r"[ ](?:of[ ]|de[ ]|di[ ])?"
_LAST = rf"(?:\.?,?[ ](?:of[ ]|in[ ]|del?[ ])?{_YEAR})"
# A day or a year must be there: "in May" is no date of birth.
_DATE = (
    rf"(?:{_DAY}{_OF}(?:{_MONTHS})\b{_LAST}?|(?:{_MONTHS})\b\.?[ ]{_DAY}(?![\d:]){_LAST}?"
    rf"|(?:{_MONTHS})\b{_LAST}|\d{{1,2}}([/.-])\d{{1,2}}\1(?:\d{{4}}|\d\d)(?!\d)"
    rf"|\d{{4}}([/.-])\d{{1,2}}\2\d{{1,2}}(?!\d))"
)
_ANY_DATE = re.compile(rf"(?<![\w/.-]){_DATE}|(?<![\w/.,-]){_YEAR}(?![\w/-])", re.IGNORECASE)

_CUE = re.compile(
    r"(?<!\w)(?:birth(?:day|date)?|b-?day|born|d\.?o\.?b\.?|geboren|geb\.|geburts(?:tag|datum)"
    r"|(?P<mine>nac[ií](?!\w)|je[ ]suis[ ]née?|sono[ ]nat[oa]|nasci)|née?[ ](?:le|en)|naissance"
    r"|anniversaire|nacid[oa]|nacimiento|cumpleaños|nat[oa][ ](?:il|nel|a)|nascita|compleanno"
    r"|nascimento|nascid[oa]|geboortedatum)(?!\w)",
    re.IGNORECASE,
)
KEYS = (
    *(
        "birth",
        "bday",
        "b-day",
        "born",
        "dob",
        "d.o.b",
        "d.ob",
        "do.b",
        "je suis n",
        "gebor",
        "geburt",
        "geb.",
        "naiss",
        "anniv",
    ),
    *(
        "né le",
        "née le",
        "né en",
        "née en",
        "nací",
        "naci ",
        "nacid",
        "nacim",
        "cumple",
        "nato ",
        "nata ",
        "nasc",
        "complean",
        "geboort",
    ),
)
# Whose birth it is: the user's, a relative's, a client's, or that of the person of a form.
_OWN = re.compile(
    r"\b(?:I|i|[Mm][ye]|[Ww]e|[Oo]urs?|[Mm]ine|[Ii]ch|[Mm]ein\w{0,2}|[Uu]nser\w{0,2}|[Jj]e|[Mm]on|[Mm]a"
    r"|[Nn]otre|[Yy]o|[Mm]is?|[Nn]uestr[oa]s?|[Ii]o|[Mm]i[oa]|[Ss]ono|[Pp]atient\w{0,3}|[Cc]lient"
    r"|[Cc]ustomer|[Ee]mployee|[Aa]pplicant|[Nn]ame|[Nn]om|[Nn]ombre|[Nn]ome)\b",
)
_BEFORE_CHARS = 80
_AFTER_CHARS = 56
_FIELD = re.compile(r"[\"']?[ ]?[(:=|]|[ ]is\b")
_SENTENCE = re.compile(r"[.!?][ \n]+(?=[A-Z\"'])|\n\n")
_ABBREVIATED = re.compile(r"(?:\b\w|\bgeb|\d)\Z", re.IGNORECASE)


def births(text: str, lower: str) -> Iterator[Span]:
    """Yield the dates at which somebody of the user's life, or of a form, was born.

    Parameters
    ----------
    lower : str
        The text in lower case.
    """
    if not any(map(lower.__contains__, KEYS)):
        return
    for cue in _CUE.finditer(text):
        start = _sentence_start(text, cue.start())
        field = _FIELD.match(text, cue.end()) is not None and cue[0].lower() != "born"
        if not (field or cue["mine"] or _OWN.search(text, start, cue.start())):
            continue
        date = _ANY_DATE.search(text, cue.end(), cue.end() + _AFTER_CHARS)
        if date is not None and _SENTENCE.search(text, cue.end(), date.start()) is None:
            yield Span(*date.span(), "DATE_OF_BIRTH")
        elif cue[0].lower() in ("geboren", "born"):
            # "ich bin am 3. Mai 1984 geboren"
            for date in _ANY_DATE.finditer(text, start, cue.start()):
                yield Span(*date.span(), "DATE_OF_BIRTH")


def _sentence_start(text: str, place: int) -> int:
    """Return where the sentence of a place begins, or a bounded way before it."""
    start = max(0, place - _BEFORE_CHARS)
    for end in _SENTENCE.finditer(text, start, place):
        if _ABBREVIATED.search(text, max(0, end.start() - 4), end.start()) is None:
            start = end.end()
    return start


_I_AM = re.compile(
    r"\b(?:i\ am|i'?m|he\ is|he's|she\ is|she's|age:|turned|turning)\ (?P<age>\d{1,3})(?!\d)"
    r"(?![ ]?(?:%|percent|minutes?|hours?|days?|weeks?|months?|times|of|miles|km|feet|foot|cm|kg"
    r"|pounds|points?|years\ (?:in|from|away)|[.,:]\d))",
    re.IGNORECASE,
)
_I_AM_KEYS = ("i am ", "i'm ", "im ", "he is ", "he's ", "age: ", "turned ", "turning ")
# "Explain it like I'm 5" is nobody's age.
_LIKE = re.compile(r"\b(?:like|as\ if|as\ though|pretend|imagine)\ \Z", re.IGNORECASE)
_OF_NOBODY = re.compile(r"\b(?:like|as[ ]if|pretend|imagine)[ ]i", re.IGNORECASE)
_AGE = re.compile(
    r"(?<![\w.,])(?:(?P<old>\d{1,3})(?:[ -]years?[ -]old|[ ]?y/?o\b|[ ]jahre?[ ]alt)"
    r"|(?:\bat[ ](?:the[ ])?age(?:[ ]of)?|\baged?|\bim[ ]alter[ ]von|\bà[ ]l'âge[ ]de|\ba[ ]los"
    r"|\ball'età[ ]di)[ ](?P<aged>\d{1,3})(?![\d.,%-]*\d)"
    r"|\b(?:ai|a|tengo|tiene|ho|ha)[ ](?P<has>\d{1,3})[ ](?:ans|años|anni))(?!\w)",
    re.IGNORECASE,
)
_AGE_KEYS = (
    *(
        "r old",
        "r-old",
        "s old",
        "s-old",
        "yo ",
        "y/o",
        " alt",
        "aged ",
        "age of",
        "at age",
        "alter von",
    ),
    *("l'âge", "a los", "l'età", "j'ai ", " ans ", " ans.", "años", " anni"),
)
#: One of these is in every text with an age, in lower case.
AGES = (*_I_AM_KEYS, *_AGE_KEYS)
_VERB_OF_ONE = re.compile(r"j'ai|tengo|\bho\b", re.IGNORECASE)


def ages(text: str, lower: str) -> Iterator[Span]:
    """Yield the ages of the user and of people of the user's life."""
    if any(map(lower.__contains__, _I_AM_KEYS)):
        for match in _I_AM.finditer(text):
            if _LIKE.search(text, max(0, match.start() - 12), match.start()) is None:
                yield Span(*match.span("age"), "AGE")
    if any(map(lower.__contains__, _AGE_KEYS)):
        for match in _AGE.finditer(text):
            start = _sentence_start(text, match.start())
            if _OWN.search(text, start, match.start()) or _VERB_OF_ONE.search(
                text, max(0, match.start() - 2), match.end()
            ):
                group = next(name for name in ("old", "aged", "has") if match[name])
                if _OF_NOBODY.search(text, start, match.start()) is None:
                    yield Span(*match.span(group), "AGE")
