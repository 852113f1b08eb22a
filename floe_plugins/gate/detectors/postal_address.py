"""Postal addresses by how streets, post codes and boxes are written in several countries."""

import re
from collections.abc import Sequence

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.pattern import matches_at

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

# Post codes that look like nothing else; case matters, since "a1a 1a1" may be anything.
_CODES = re.compile(
    r"(?<![\w-])(?:"
    r"(?:GIR[ ]0AA|[A-PR-UWYZ](?:\d{1,2}|[A-HK-Y]\d{1,2}|\d[A-HJKS-UW]|[A-HK-Y]\d[ABEHMNPRV-Y])"
    r"[ ]\d[ABD-HJLNP-UW-Z]{2})"  # United Kingdom
    r"|[ABCEGHJ-NPRSTVXY]\d[ABCEGHJ-NPRSTV-Z][ ]\d[ABCEGHJ-NPRSTV-Z]\d"  # Canada
    r"|(?:AL|AK|AZ|AR|CA|CO|CT|DE|FL|GA|HI|IA|ID|IL|IN|KS|KY|LA|MA|MD|ME|MI|MN|MO|MS|MT|NC|ND|NE|NH"
    r"|NJ|NM|NV|NY|OH|OK|OR|PA|RI|SC|SD|TN|TX|UT|VA|VT|WA|WI|WV|WY|DC)[ ]\d{5}(?:-\d{4})?"
    r")(?![\w-])"
)
_DIGITS = re.compile(r"\d\d*")
_CAPITALS = re.compile(r"[A-Z][A-Z]*")


class PostalAddressDetector:
    """Finds streets with a house number, post boxes, and post codes of a form of their own."""

    name = "postal-address"
    labels: Sequence[str] = ("ADDRESS",)

    def detect(self, text: str) -> Sequence[Span]:
        """Return the addresses of a text."""
        if _DIGITS.search(text) is None:
            return []
        matches = [
            *matches_at(_DIGITS, _BY_NUMBER, text),
            *_BY_NAME.finditer(text),
            *matches_at(_CAPITALS, _CODES, text),
        ]
        return [Span(*match.span(), "ADDRESS") for match in matches]
