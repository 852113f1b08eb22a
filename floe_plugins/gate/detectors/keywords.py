"""Numbers and dates that are private because of the words before them."""

import re
from collections.abc import Sequence

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.births import AGES, ages, births
from floe_plugins.gate.detectors.births import KEYS as BIRTHS
from floe_plugins.gate.detectors.coordinates import coordinates
from floe_plugins.gate.detectors.national_ids import with_spaces
from floe_plugins.gate.growing import Cues, Growing, beginning, found_from
from floe_plugins.gate.matching import any_of, in_lower, matches_at

_ID_WORDS = (
    *(
        "national",
        "personal",
        "identity",
        "identification",
        "tax",
        "member",
        "membership",
        "employee",
    ),
    *(
        "student",
        "customer",
        "policy",
        "insurance",
        "beneficiary",
        "case",
        "claim",
        "visa",
        "permit",
    ),
    "voter",
)

# Cue, label, and parts of words, one of which every text with the cue contains. The value follows
# within a few words and holds a digit.
_CUES: tuple[tuple[str, str, str], ...] = (
    (
        r"driv(?:er|ing)(?:'?s|s'?)?(?:[ ]|-)?(?:licen[cs]e|lic)|licen[cs]e[ ](?:no|number|nr)"
        r"|führerschein(?:-?nr|nummer)?|fahrerlaubnis|permis[ ]de[ ]conduire"
        r"|(?:licencia|permiso|carn[eé]t?)[ ]de[ ]conduc(?:ir|ción)|patente[ ]di[ ]guida",
        "DRIVER_LICENSE",
        "licen|driver|driving|führersch|fahrerl|permis de|conducir|conducción|patente di",
    ),
    (
        r"passport|reisepass(?:-?nr|nummer)?|pass(?:[- ]?nr|nummer)|passeport|pasaporte|passaporto",
        "PASSPORT",
        "passport|passeport|reisepass|pass-nr|pass nr|passnr|passnummer|pasaporte|passaporto",
    ),
    (
        r"(?:licen[cs]e|number|registration|(?:my|his|her|car)[ ]licen[cs]e)[ ]plates?"
        r"|plate[ ]number|(?:my|his|her|our|car)[ ]plates?|(?:car|vehicle)[ ]registration"
        r"|registration[ ](?:number|no)"
        r"|(?:kfz-?)?kennzeichen|nummernschild|plaque[ ]d'immatriculation|immatriculation"
        r"|matr[ií]cula|targa|placa",
        "LICENSE_PLATE",
        " plate|registration n|e registration|r registration|kennz|nummernsch|immatric|matricul"
        "|matrícul|targa|placa",
    ),
    (
        r"vin|chassis[ ]number|vehicle[ ]identification[ ]number|fahrgestellnummer",
        "VEHICLE_ID",
        " vin|chassis|vehicle|fahrgest",
    ),
    (
        r"(?:bank[ ])?account(?:[ ](?:no|number|nr|id|\#))|acct|routing[ ]number|sort[ ]code"
        r"|kontonummer|num[eé]ro[ ]de[ ]compte|n[uú]mero[ ]de[ ]cuenta|numero[ ]di[ ]conto",
        "ACCOUNT_NUMBER",
        "account|acct|routing|sort code|konto|compte|cuenta|di conto",
    ),
    (
        r"medical[ ]record(?:[ ](?:no|number))?|mrn|patient[ ](?:id|no|number)|patientennummer"
        r"|health[ ](?:card|insurance)|carte[ ]vitale|tarjeta[ ]sanitaria|tessera[ ]sanitaria",
        "MEDICAL_RECORD",
        "medical record|mrn|patient|health card|health insurance|vitale|sanitaria",
    ),
    (
        r"zip(?:[ ]?code)?|post(?:al)?[ ]?code|plz|postleitzahl|code[ ]postal|c[oó]digo[ ]postal"
        r"|codice[ ]postale",
        "ADDRESS",
        "zip|postal|post code|postcode|plz|postleit",
    ),
    (
        rf"(?:{'|'.join(_ID_WORDS)})"
        r"[ ](?:id|no|number|nr|card)|id[ ](?:no|number|card)|ssn|nino|national[ ]insurance"
        r"|social[ ](?:security|insurance)|tin|(?:personal)?ausweis(?:-?nr|nummer)?"
        r"|steuer-?(?:nr|nummer|id|identifikationsnummer)|sozialversicherungs-?(?:nr|nummer)"
        r"|(?:kunden|mitglieds|personal|matrikel)nummer|carte[ ](?:nationale[ ])?d'identité"
        r"|num[eé]ro[ ](?:fiscal|client)|identifiant[ ]fiscal|(?:de[ ])?sécurité[ ]sociale|dni"
        r"|nie|nif|c[eé]dula|(?:documento|carta)[ ]d(?:i[ ]|')identità|documento[ ]de[ ]identidad"
        r"|codice[ ]fiscale|partita[ ]iva|seguridad[ ]social|identificaci[oó]n[ ]fiscal",
        "ID_NUMBER",
        "|".join(f"{word} " for word in _ID_WORDS)
        + "|id no|id number|id card|ssn|nino|social s|social i| tin"
        "|ausweis|steuer|sozialv|nummer|fiscal|identi|sécurité| dni| nie| nif|cedula|cédula"
        "|partita|seguridad|numéro c|numero c",
    ),
    (
        r"cvv2?|cvc2?|security[ ]code|card[ ]pin|pin[ ](?:code|number)|my[ ]pin|passcode|otp",
        "PIN",
        "cvv|cvc|security code|card pin|pin code|pin number|my pin|passcode| otp",
    ),
)
_GROUP = r"[A-Z0-9]++(?:[./-][A-Z0-9]++){0,6}+"
_BETWEEN = (
    # Up to five words such as "number is now", or a sign, may stand between a cue and its value.
    r"(?!\w)\.?(?:[ ]?(?:(?:'s|numbers?|nummer|n[uú]mero|num[eé]ro|no\.?|nr\.?|code|id|card|is|was"
    r"|of|the|my|now|it|and|here|ist|lautet|war|est|es|era|de|di|del|mein|meine|mon|ma|mi|mia|mio|der|die"
    r"|la|le|el|il)\b|n[°º]|è)){0,5}"
    r"[ \t]{0,2}[:=#-]?[ \t\n]{0,2}[\"']?"
    # Later groups hold a digit or are a few capitals, so that the sentence's words are not taken.
    r"(?P<value>(?=[A-Z0-9./-]{0,20}\d|(?-i:[A-ZÄÖÜ]{1,3}(?:-[A-Z]{1,3})?[ ](?:[A-Z]{1,3}[ ])?)\d)"
    rf"{_GROUP}(?:[ ](?=[A-Z0-9./-]{{0,12}}\d|(?-i:[A-Z]{{1,3}}\b)){_GROUP}){{0,5}}+)(?![\w])"
)
_LEAST_CHARS = 3
_PATTERNS = tuple(
    (
        re.compile(rf"\b(?:{cue}){_BETWEEN}", re.IGNORECASE),
        # Where it may begin in a text of lower case.
        re.compile(rf"\b(?=(?:{cue})(?!\w))"),
        label,
        tuple(keys.split("|")),
    )
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
_MOST_DATES = 2
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


# Before new text: the sentence of a birth, or a cue with all groups of its value; the last digit
# of a value; a date.
_REACH, _DIGIT_CHARS, _DATE_CHARS = 384, 80, 12
_BIRTH_CUES = Cues(any_of(BIRTHS).search, longest=max(map(len, BIRTHS)), within=_REACH)
# A date or a coordinate, or its beginning.
_VALUE = re.compile(r"\d(?:[/.-]\d|°)")
_KEYS = (*"|".join(keys for *_, keys in _CUES).split("|"), *_BIRTH_KEYS, *BIRTHS, *AGES)
_ANY_KEY = any_of(_KEYS)


def _has_key(lower: str) -> bool:
    # Some keys are whole words, with any sign before them.
    spaced = with_spaces(lower)
    return _ANY_KEY.search(lower) is not None or _ANY_KEY.search(spaced) is not None


_ANY_CUES = Cues(_has_key, longest=max(map(len, _KEYS)), within=_REACH)
_ENDS_IN_DATE = re.compile(r"\d[/.-]\d{1,4}\Z")

_OTHERS = ("DATE_TIME", "DATE_OF_BIRTH", "AGE", "COORDINATES")


class KeywordDetector:
    """Finds identifiers, post codes, codes, births, ages and places by the words around them.

    A numeric date of the years 1900 to 2012 may be a date of birth anywhere, save in a list of
    such dates; its label is `DATE_TIME`, like that of other persons' dates.
    """

    name = "announced"
    labels: Sequence[str] = (
        *dict.fromkeys(label for _, label, _ in _CUES),
        "DATE_TIME",
        "DATE_OF_BIRTH",
        "AGE",
        "COORDINATES",
    )

    def detect(self, text: str) -> Sequence[Span]:
        """Return the values of a text that follow a keyword."""
        lower = f" {text.lower()}"
        if _DIGIT.search(text) is None:
            # A date of birth may be in words.
            return list(births(text, lower))
        spans = []
        plain = in_lower(text)
        either = f"{lower}\n{with_spaces(lower)}"
        for pattern, starts, label, keys in _PATTERNS:
            if any(map(either.__contains__, keys)):
                spans += [
                    Span(*match.span("value"), label)
                    for match in (
                        pattern.finditer(text)
                        if plain is None
                        else matches_at(starts, pattern, text, there=plain)
                    )
                    if _DIGIT.search(match["value"]) and len(match["value"]) >= _LEAST_CHARS
                ]
        dates = list(matches_at(_DIGITS, _DATE, text))
        # Many dates are a table or the options of a question.
        alone = len(dates) <= _MOST_DATES
        for match in dates:
            if (alone and _of_birth(match)) or _near_birth(match):
                spans.append(Span(*match.span(), "DATE_TIME"))
        if any(map(lower.__contains__, _BIRTH_KEYS)) and _BIRTH.search(text):
            for match in _WRITTEN_DATE.finditer(text):
                if _near_birth(match):
                    spans.append(Span(*match.span(), "DATE_TIME"))
        born = set(births(text, lower))
        own = {(span.start, span.end) for span in born}
        spans = [span for span in spans if (span.start, span.end) not in own]
        return [*spans, *sorted(born), *ages(text, lower), *coordinates(text)]

    def detect_new(self, text: str, new_from: int) -> Sequence[Span]:
        """Return the findings of `detect` of which new text is a part, and maybe others."""
        if _ENDS_IN_DATE.search(text, max(0, new_from - _DATE_CHARS), new_from):
            # If that becomes none, there is one less, and then the others count.
            return self.detect(text)
        return found_from(self, text, beginning(text, new_from - _REACH))

    def may_find(self, grown: Growing) -> bool:
        """Return whether new text may make a finding: a value, or a word for a birth, is near it.

        A value has a digit, and a word before it or a form of its own.
        """
        if grown.since_digit > _DIGIT_CHARS:
            return _BIRTH_CUES.near(grown)
        begin = max(0, grown.new_from - _DIGIT_CHARS)
        return _VALUE.search(grown.text, begin) is not None or _ANY_CUES.near(grown)


def _near_birth(match: re.Match[str]) -> bool:
    start = match.start()
    return _BIRTH.search(match.string, max(0, start - _BIRTH_CHARS), start) is not None


def _of_birth(match: re.Match[str]) -> bool:
    year = match["year"]
    # A version or a log's time stamp is not a date of birth.
    return match["sign"] in ("/", ".") and len(year) == 4 and 1900 <= int(year) <= 2012
