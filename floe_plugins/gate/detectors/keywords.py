"""Numbers and dates that are private because of the words before them."""

import re
from collections.abc import Sequence

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.pattern import matches_at

# Cue, label, and parts of words, one of which every text with the cue contains. The value follows
# within a few words and holds a digit.
_CUES: tuple[tuple[str, str, str], ...] = (
    (
        r"driv(?:er|ing)(?:'?s|s'?)?(?:[ ]|-)?(?:licen[cs]e|lic)|licen[cs]e[ ](?:no|number|nr)",
        "DRIVER_LICENSE",
        "licen|driver lic|driving lic",
    ),
    (
        r"passport|reisepass|passeport|pasaporte",
        "PASSPORT",
        "passport|passeport|reisepass|pasaporte",
    ),
    (
        r"(?:licen[cs]e|number|registration)[ ]plate|plate[ ]number|kennzeichen",
        "LICENSE_PLATE",
        "plate|kennz",
    ),
    (
        r"vin|chassis[ ]number|vehicle[ ]identification[ ]number",
        "VEHICLE_ID",
        " vin|chassis|vehicle",
    ),
    (
        r"(?:bank[ ])?account(?:[ ](?:no|number|nr|id|\#))|acct|routing[ ]number|sort[ ]code"
        r"|kontonummer",
        "ACCOUNT_NUMBER",
        "account|acct|routing|sort code|konto",
    ),
    (
        r"medical[ ]record(?:[ ](?:no|number))?|mrn|patient[ ](?:id|no|number)"
        r"|health[ ](?:card|insurance)",
        "MEDICAL_RECORD",
        "medical record|mrn|patient|health card|health insurance",
    ),
    (
        r"zip(?:[ ]?code)?|post(?:al)?[ ]?code|plz|postleitzahl",
        "ADDRESS",
        "zip|postal|post code|postcode|plz|postleit",
    ),
    (
        r"(?:national|personal|identity|identification|tax|member|membership|employee|student"
        r"|customer|policy|insurance|beneficiary|case|claim|visa|permit|voter)"
        r"[ ](?:id|no|number|nr|card)|id[ ](?:no|number|card)|ssn|nino|national[ ]insurance"
        r"|social[ ](?:security|insurance)|tin",
        "ID_NUMBER",
        "national|personal|identi|tax|member|employee|student|customer|policy|insurance|beneficiary"
        "|case|claim|visa|permit|voter|id no|id num|id card|ssn|nino|social| tin",
    ),
    (
        r"cvv2?|cvc2?|security[ ]code|card[ ]pin|pin[ ](?:code|number)|my[ ]pin|passcode|otp",
        "PIN",
        "cvv|cvc|security code|card pin|pin code|pin number|my pin|passcode| otp",
    ),
)
_BETWEEN = (
    # Up to four words such as "number is now", or a sign, may stand between a cue and its value.
    r"\b\.?(?:[ ]?(?:'s|numbers?|no\.?|nr\.?|code|id|card|is|was|of|the|my|now|it|and|here)\b){0,4}"
    r"[ \t]{0,2}[:=#-]?[ \t\n]{0,2}[\"']?"
    r"(?P<value>(?=[A-Z0-9./-]{0,20}\d)[A-Z0-9](?:[ ./-]?[A-Z0-9]){2,20})(?![\w])"
)
_PATTERNS = tuple(
    (re.compile(rf"\b(?:{cue}){_BETWEEN}", re.IGNORECASE), label, tuple(keys.split("|")))
    for cue, label, keys in _CUES
)
_DIGIT = re.compile(r"\d")
_DIGITS = re.compile(r"\d\d*")

_MONTHS = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    "|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
)
_DATE = re.compile(
    r"(?<![\w/.-])(?:\d{1,2}(?P<sign>[/.-])\d{1,2}(?P=sign)(?P<year>(?:19|20)\d\d|\d\d)"
    r"|(?:19|20)\d\d-\d{1,2}-\d{1,2})(?![\w/-])"
)
_WRITTEN_DATE = re.compile(
    rf"""(?<![\w/.-])(?:\d{{1,2}}(?:st|nd|rd|th)?\ (?:of\ )?(?:{_MONTHS})\.?,?\ (?:19|20)\d\d
    | (?:{_MONTHS})\.?\ \d{{1,2}}(?:st|nd|rd|th)?,?\ (?:19|20)\d\d)(?![\w/-])""",
    re.VERBOSE | re.IGNORECASE,
)
_BIRTH = re.compile(
    r"\b(?:birth(?:day|date)?|born|d\.?o\.?b|geboren|geburtsdatum|naissance|n[ée]e? le|nacimiento"
    r"|nacid[oa]|nascita|nat[oa] il|nascimento|geboortedatum|admi(?:tted|ssion)|discharged?"
    r"|deceased|died|appointment|diagnosed|hired|expires?|expiry)\b",
    re.IGNORECASE,
)
_BIRTH_CHARS = 60
_BIRTH_KEYS = (
    "birth",
    "born",
    "dob",
    "d.o.b",
    "gebor",
    "geburt",
    "naiss",
    "née",
    "né le",
    "nee le",
    "ne le",
    "nacim",
    "nacid",
    "nasc",
    "nato il",
    "nata il",
    "geboort",
    "admi",
    "discharg",
    "decea",
    "died",
    "appoint",
    "diagn",
    "hired",
    "expir",
)
_AGE_KEYS = ("i am ", "i'm ", "im ", "he is ", "he's ", "age: ", "turned ", "turning ")

_AGE = re.compile(
    r"\b(?:i\ am|i'?m|he\ is|he's|she\ is|she's|age:|turned|turning)\ (?P<age>\d{1,3})(?!\d)"
    r"(?![ ]?(?:%|percent|minutes?|hours?|days?|weeks?|months?|times|of|miles|km|feet|foot|cm|kg"
    r"|pounds|points?|years\ (?:in|from|away)|[.,:]\d))",
    re.IGNORECASE | re.VERBOSE,
)


class KeywordDetector:
    """Finds identifiers, post codes, codes, dates of birth and ages by the words around them.

    A numeric date of the years 1900 to 2012 counts as a date of birth anywhere.
    """

    name = "announced"
    labels: Sequence[str] = (*dict.fromkeys(label for _, label, _ in _CUES), "DATE_TIME", "AGE")

    def detect(self, text: str) -> Sequence[Span]:
        """Return the values of a text that follow a keyword."""
        if _DIGIT.search(text) is None:
            return []
        spans = []
        lower = f" {text.lower()}"
        for pattern, label, keys in _PATTERNS:
            if any(map(lower.__contains__, keys)):
                spans += [
                    Span(*match.span("value"), label)
                    for match in pattern.finditer(text)
                    if _DIGIT.search(match["value"])
                ]
        for match in matches_at(_DIGITS, _DATE, text):
            if _near_birth(match) or _of_birth(match):
                spans.append(Span(*match.span(), "DATE_TIME"))
        if any(map(lower.__contains__, _BIRTH_KEYS)) and _BIRTH.search(text):
            for match in _WRITTEN_DATE.finditer(text):
                if _near_birth(match):
                    spans.append(Span(*match.span(), "DATE_TIME"))
        if any(map(lower.__contains__, _AGE_KEYS)):
            spans += [Span(*match.span("age"), "AGE") for match in _AGE.finditer(text)]
        return spans


def _near_birth(match: re.Match[str]) -> bool:
    start = match.start()
    return _BIRTH.search(match.string, max(0, start - _BIRTH_CHARS), start) is not None


def _of_birth(match: re.Match[str]) -> bool:
    year = match["year"]
    # A version or a log's time stamp is not a date of birth.
    return match["sign"] in ("/", ".") and len(year) == 4 and 1900 <= int(year) <= 2012
