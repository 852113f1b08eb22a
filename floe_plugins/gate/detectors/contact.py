"""E-mail addresses, telephone numbers and postal addresses."""

import re
from collections.abc import Sequence
from functools import lru_cache

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.pattern import PatternDetector
from floe_plugins.gate.growing import Growing, Words
from floe_plugins.gate.matching import matches_at
from floe_plugins.gate.top_level import is_top_level

_LOCAL = r"[\w.!#$%&'*+/=?^`{|}~-]"


# What stands before "@" where that is no address: users of code hosts, and words of programs.
_NO_USERS = frozenset("git hg svn aur this super return break continue".split())  # noqa: SIM905
_IN_URL = re.compile(r"://[^\s/@]{0,256}:[^\s/@]{0,256}\Z")
_IN_URL_CHARS = 515


def _is_address(match: re.Match[str]) -> bool:
    domain, local = match["domain"], match["local"]
    if local is not None and (not local[-1].isalnum() and local[-1] not in "_-+~'"):
        # "x=@user.name" and "#{@user.name}" in a program.
        return False
    start = match.start()
    if local is not None and local.rpartition("/")[2] in _NO_USERS:
        return False
    if _IN_URL.search(match.string, max(0, start - _IN_URL_CHARS), start):
        # The password of an address "://user:password@host" is not a name.
        return False
    return domain is None or is_top_level(domain.rpartition(".")[2])


EMAIL = PatternDetector(
    name="email",
    label="EMAIL",
    # A quoted local part (RFC 5322, section 3.4.1) may hold almost anything, and the domain may be
    # an address in brackets.
    pattern=re.compile(
        rf"""(?:(?<!{_LOCAL})(?P<local>{_LOCAL}++)|"[^"\n]{{1,64}}+")
        @(?:(?P<domain>[\w-]++(?:\.[\w-]++)++)|\[[0-9A-Fa-f:.IPv]{{3,45}}+\])""",
        re.VERBOSE,
    ),
    confirms=_is_address,
    needs="@",
    # The quoted part, or the user and the password of an address of the web.
    reach=576,
)


# Allowed between two digits of one number: nothing, a separator, or a bracket.
_GAP = r"(?:[ -]?[()][ -]?|[ ./-])?+"

# Not within a word, a decimal or a number with a thousands separator.
_BEGIN = r"(?<![\w.+])(?<!\d,)"
_EXTENSION = r"(?:[ ]?(?:x|ext\.?)[ ]?\d{1,6})?(?!\w)"

_STARTS = re.compile(r"[+(\d](?:(?<=\d)\d*)?")

# Forms that are recognisable as telephone numbers without context.
_PLAIN = re.compile(
    rf"""{_BEGIN}(?:
        (?:\+|00){_GAP}[1-9](?:{_GAP}\d){{6,14}}                     # +49 30 123456
        | (?:1[ .-])?\(?[2-9]\d\d\)?[ .-]?[2-9]\d\d[.-]\d{{4}}         # (212) 555-0143
        | \(\d{{2,5}}\)[ -]?\d{{2,5}}(?:[ -]?\d{{2,5}}){{1,3}}             # (044) 688 75 38
        | (?P<trunk>0\d{{1,4}}(?:[ -]|[ ]?/[ ]?)\d{{2,8}}(?:[ -]\d{{2,5}}){{0,4}})  # 030 1234567
    ){_EXTENSION}""",
    re.VERBOSE | re.IGNORECASE,
)

# Digits that may be anything, unless a word beside them identifies them.
_NUMBER = re.compile(rf"{_BEGIN}[+(]?\d(?:{_GAP}\d){{6,14}}{_EXTENSION}", re.IGNORECASE)
_CUE = re.compile(
    r"\b(?:(?:tele)?(?:phone|fon[oe]?)|call|dial|text|sms|whatsapp|mobile|cell|fax|tel|handy"
    r"|ring|reach|landline|hotline|answering|m[oó]vil|portable)\b",
    re.IGNORECASE,
)
_CUE_AFTER = re.compile(
    r"[ \t,;:(-]{0,3}(?:office|fax|mobile|cell|phone|home|work)\b", re.IGNORECASE
)
_CUE_CHARS = 40

# A quantity of something, or a value of a program, in spite of the cue: "call f with 2000000 rows",
# {"text": "91480041"}.
_QUANTITY = re.compile(
    r"\b(?:with|of|has|have|had|than|over|about|around|approximately|nearly|exactly|every|per|by"
    r"|in|costs?|takes?|least|most|up[ ]to|first|last|size|length|count|sum|total|between|range|max"
    r"|min)"
    r"[ ]{1,2}\$?\Z|[\"'](?:text|call|cell|ring|reach|portable)[\"']\s{0,3}[:,]\s{0,3}[\"']?\Z"
    r"|(?:[<>=!+*/%-]=|[<>+*/%^\[]|==)[ ]?\Z",
    re.IGNORECASE,
)
_QUANTITY_CHARS = 24
_UNIT_AFTER = re.compile(
    r"[ ]?(?:bytes|characters|chars|words|rows|records|items|elements|entries|users|people|times"
    r"|lines|points|pixels|dollars|euros|pounds|years|days|hours|minutes|seconds|ms|km|kg|miles|meters"
    r"|tokens|samples|iterations|steps|requests|units|copies|views|inhabitants|%|\$|€|£)(?!\w)",
    re.IGNORECASE,
)
# 2000000 is a round number, and no telephone has one without separators.
_ROUND = re.compile(r"\d{1,4}0{5,}")
# A time stamp of a log: "05-12-2023 1030".
_DATED = re.compile(r"\d{2}([ /-])\d{2}\1(?:19|20)\d{2}(?!\d)")

# Fewer digits than these are years, times and quantities.
_LEAST_PLAIN_DIGITS = 7
_TRUNK_DIGITS = 9

# Looking a number up takes a fraction of a millisecond. A text with more numbers than this is built
# to be slow, and all of them count as found.
_MOST_LOOKED_UP = 256


class PhoneDetector:
    """Finds telephone numbers, also national ones with a known form or a cue beside them."""

    name = "phone"
    labels: Sequence[str] = ("PHONE",)
    #: Characters before new text that may take part in a new finding.
    reach = 128

    def detect(self, text: str) -> Sequence[Span]:
        """Return the telephone numbers of a text."""
        matches = [match for match in matches_at(_STARTS, _PLAIN, text) if _long_enough(match)]
        looked_up = 0
        for match in matches_at(_STARTS, _NUMBER, text):
            if _has_keyword(match):
                matches.append(match)
            elif is_grouped(match[0]):
                looked_up += 1
                if looked_up > _MOST_LOOKED_UP or is_planned(match[0]):
                    matches.append(match)
        return sorted({Span(match.start(), match.end(), "PHONE") for match in matches})

    def may_find(self, grown: Growing) -> bool:
        """Return whether new text may make a finding: there is a digit in it or near it."""
        return grown.since_digit <= 24


def _long_enough(match: re.Match[str]) -> bool:
    if match["trunk"] and _DATED.match(match[0]):
        return False
    digits = sum(character.isdigit() for character in match[0])
    return digits >= (_TRUNK_DIGITS if match["trunk"] else _LEAST_PLAIN_DIGITS)


def _has_keyword(match: re.Match[str]) -> bool:
    text, start = match.string, match.start()
    if not (
        _CUE.search(text, max(0, start - _CUE_CHARS), start) or _CUE_AFTER.match(text, match.end())
    ):
        return False
    return not (
        _QUANTITY.search(text, max(0, start - _QUANTITY_CHARS), start)
        or _UNIT_AFTER.match(text, match.end())
        or _ROUND.fullmatch(match[0])
        or _DATED.match(match[0])
    )


#: Countries whose numbers are mostly written in characteristic groups.
_REGIONS = ("ES", "PT", "IT", "PL", "CZ", "GR", "SG")

_GROUPS = re.compile(r"\d+")
_SEPARATORS = re.compile(r"[^\d]+")
_LEAST_DIGITS, _MOST_DIGITS = 8, 10


def is_grouped(candidate: str) -> bool:
    """Return whether the digits and groups of `candidate` may be those of a numbering plan."""
    groups = _GROUPS.findall(candidate)
    digits = sum(map(len, groups))
    # Groups of two digits only are a list of small numbers, and one group may be anything.
    return (
        len(groups) > 1
        and max(map(len, groups)) > 2
        and _LEAST_DIGITS <= digits <= _MOST_DIGITS
        and len(set(_SEPARATORS.findall(candidate.strip("+()")))) == 1
        # 130 150 110 are three numbers.
        and not all(group.endswith("0") for group in groups)
    )


def is_planned(candidate: str) -> bool:
    """Return whether a grouped `candidate` is a valid number in some country's format."""
    return _is_written_so(" ".join(_GROUPS.findall(candidate)))


@lru_cache(maxsize=4096)
def _is_written_so(grouped: str) -> bool:
    import phonenumbers

    for region in _REGIONS:
        try:
            number = phonenumbers.parse(grouped, region)
        except phonenumbers.NumberParseException:
            # "00" is the international prefix, and no country code follows.
            continue
        if phonenumbers.is_valid_number_for_region(number, region):
            written = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
            if " ".join(_GROUPS.findall(written)) == grouped:
                return True
    return False


# Words of a street's name; a bounded number of bounded words keeps every match short.
_NAME = r"(?:(?:[A-ZÀ-ÞΑ-ΩА-Я]|\d{1,3}(?:st|nd|rd|th)\b)[\w.'’-]{0,24}[ ]){1,4}?"
_ENGLISH = (
    r"(?:(?:Street|Str|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Place|Pl|Square"
    r"|Sq|Terrace|Ter|Parkway|Pkwy|Highway|Hwy|Circle|Cir|Crescent|Close|Grove|Mews|Row|Walk|Trail"
    r"|Way)|STREET|AVENUE|ROAD|LANE|DRIVE|BOULEVARD|street|avenue|road|lane|drive|boulevard)"
)
_UNIT = (
    r"(?:,?[ \n](?:[Aa]pt|[Aa]partment|[Ss]uite|[Ss]te|[Uu]nit|[Ff]lat|[Ff]loor|[Rr]oom|\#)"
    r"\.?[ ]?\#?[\w-]{1,6})?"
)
_CITY = r"(?:,?[ \n]{1,2}[^\W\d_][\w.'’ -]{1,30})"

_NUMBER_FIRST = (
    # 350 Fifth Avenue, Apt. 3, New York, NY 10118
    rf"\d{{1,6}}[a-z]?[ ]{_NAME}{_ENGLISH}\b\.?{_UNIT}"
    rf"(?:{_CITY}?,?[ \n]{{1,2}}[A-Z]{{2}}[ ]{{1,2}}\d{{5}}(?:-\d{{4}})?)?",
    # 12 rue de la Paix, 75002 Paris
    r"\d{1,4}(?:[ ]?(?:bis|ter))?,?[ ](?:[Rr]ue|[Aa]venue|av\.|boulevard|bd|place|quai|allée"
    r"|chemin|impasse|cours|route)[ ](?:[^\W\d_][\w'’.-]{0,24}[ ]?){1,5}"
    rf"(?:,?[ \n]{{1,2}}\d{{5}}{_CITY})?",
)
_NAME_FIRST = (
    # Musterstraße 12, 12345 Berlin; Kerkstraat 3, 1012 AB Amsterdam; Storgatan 4
    r"[^\W\da-zß-ÿ_][\w-]{1,30}(?:straße|strasse|str\.|weg|gasse|allee|platz|ufer|straat|laan|plein"
    r"|kade|gatan|vägen|veien|gata|gade|vej|katu)[ ]\d{1,4}[a-z]?\b"
    rf"(?:,?[ \n]{{1,2}}(?:\d{{4,5}}(?:[ ]?[A-Z]{{2}})?){_CITY})?",
    # Calle Mayor 5, 28013 Madrid; Via Roma, 12; Rua Augusta 100; ul. Długa 7/3
    r"(?:[Cc]alle|C/|[Aa]venida|Avda\.|[Pp]laza|[Pp]aseo|Via|Viale|Corso|Piazza|Rua|Travessa"
    r"|Largo|[Uu]l\.|[Aa]leja|al\.)[ ]?"
    r"(?:[^\W\da-zß-ÿ_][\w'’.-]{0,24},?[ ]){1,5}(?:n[º°.]?[ ]?)?\d{1,5}(?:[/-]\d{1,4})?\b"
    rf"(?:,?[ \n]{{1,2}}\d{{2}}-?\d{{3}}{_CITY})?",
    # P.O. Box 12; Postfach 100; Unit 12 Box 34; PSC 12, Box 34; APO AE 09012
    r"(?:[Pp]\.?[ ]?[Oo]\.?[ ]?[Bb](?:ox|OX)|[Pp]ost[ ][Oo]ffice[ ][Bb]ox|Postfach|[Aa]partado"
    r"|Postbus|Casella[ ][Pp]ostale)[ ]\d{1,6}\b",
    r"(?:[Uu]nit|UNIT|PSC|psc)[ ]\d{1,5},?[ ](?:[Bb]ox|BOX)[ ]\d{1,5}\b",
    r"[AFD]PO,?[ ]A[AEP][ ]\d{5}\b",
)
_BY_NUMBER, _BY_NAME = (
    re.compile(r"(?<![\w.])(?:" + "|".join(f"(?:{form})" for form in forms) + ")")
    for forms in (_NUMBER_FIRST, _NAME_FIRST)
)

# Post codes of a characteristic form; case matters, since "a1a 1a1" may be anything.
_CODES = re.compile(
    r"(?<![\w-])(?:"
    r"(?:GIR[ ]0AA|[A-PR-UWYZ](?:\d{1,2}|[A-HK-Y]\d{1,2}|\d[A-HJKS-UW]|[A-HK-Y]\d[ABEHMNPRV-Y])"
    r"[ ]\d[ABD-HJLNP-UW-Z]{2})"  # United Kingdom
    r"|[ABCEGHJ-NPRSTVXY]\d[ABCEGHJ-NPRSTV-Z][ ]\d[ABCEGHJ-NPRSTV-Z]\d"  # Canada
    r"|(?:AL|AK|AZ|AR|CA|CO|CT|DE|FL|GA|HI|IA|ID|IL|IN|KS|KY|LA|MA|MD|ME|MI|MN|MO|MS|MT|NC|ND|NE|NH"
    r"|NJ|NM|NV|NY|OH|OK|OR|PA|RI|SC|SD|TN|TX|UT|VA|VT|WA|WI|WV|WY|DC)[ ]\d{5}(?:-\d{4})?"
    r")(?![\w-])"
)
# Where such a street may begin: with a capital, or with a lower-case letter of the forms.
_NAME_STARTS = re.compile(r"[^\W\dbd-oq-tv-zß-ÿ_](?<![\w.].)")
_DIGITS = re.compile(r"\d\d*")
_CAPITALS = re.compile(r"[A-Z][A-Z]*")
_WORDS = re.compile(r"[^\W\d_]+")
# Before new text: the last digit of an address; that of one with a word for a street in new text.
_BESIDE_NUMBER, _BEFORE_STREET = 64, 192
_STREET_WORDS = frozenset(
    "street str st avenue ave road rd lane ln drive dr boulevard blvd court ct place pl square sq"  # noqa: SIM905
    " terrace ter parkway pkwy highway hwy circle cir crescent close grove mews row walk trail way"
    " rue av bd quai allée chemin impasse cours route".split()
)
_STREETS = Words(
    lambda lower: not _STREET_WORDS.isdisjoint(_WORDS.findall(lower)), within=_BESIDE_NUMBER
)


class PostalAddressDetector:
    """Finds streets with a house number, post boxes, and post codes of a form of their own."""

    name = "postal-address"
    labels: Sequence[str] = ("ADDRESS",)
    #: Characters before new text that may take part in a new finding.
    reach = 256

    def detect(self, text: str) -> Sequence[Span]:
        """Return the addresses of a text."""
        if _DIGITS.search(text) is None:
            return []
        matches = [
            *matches_at(_DIGITS, _BY_NUMBER, text),
            *matches_at(_NAME_STARTS, _BY_NAME, text),
            *matches_at(_CAPITALS, _CODES, text),
        ]
        return [Span(*match.span(), "ADDRESS") for match in matches]

    def may_find(self, grown: Growing) -> bool:
        """Return whether new text may make a finding: a digit is in it or near it."""
        # A number may come before words of a street's name, and then one for a street.
        return grown.since_digit <= _BESIDE_NUMBER or (
            grown.since_digit <= _BEFORE_STREET and _STREETS.near(grown)
        )
