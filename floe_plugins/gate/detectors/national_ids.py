"""National numbers that count only after their names: too short, or too plain, to stand alone.

A name is looked for first, and the number in the characters after it. Where the number has check
digits they must be right; where it has a form of its own, the form is enough.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.id_checks import check_of


class AnnouncedId(NamedTuple):
    """A number and what announces it.

    Attributes
    ----------
    keys : tuple of str
        In lower case; a text that announces the number holds one of them.
    cue : str
        A pattern of the words, without regard to case.
    pattern : str
        The number, without regard to case.
    check : str or None
        The name of the check, for `check_of`.
    """

    keys: tuple[str, ...]
    cue: str
    pattern: str
    check: str | None = None
    label: str = "NATIONAL_ID"


_GROUPS_OF_4 = r"\d{4}[ -]?\d{4}[ -]?\d{4}"

ANNOUNCED: tuple[AnnouncedId, ...] = (
    # India
    AnnouncedId(
        (" pan ", "permanent account"),
        r"pan|permanent[ ]account",
        r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]",
        label="TAX_ID",
    ),
    AnnouncedId(
        (" gst",), r"gst(?:in)?", r"\d\d[A-Z]{5}\d{4}[A-Z][1-9A-Z]Z[0-9A-Z]", None, "TAX_ID"
    ),
    AnnouncedId(
        ("adha", "aadh", "adar", "adaar", "uidai"), r"aa?dh?aa?r|uidai", _GROUPS_OF_4, "in_.aadhaar"
    ),
    AnnouncedId((" voter", " epic "), r"voter|epic", r"[A-Z]{3}\d{7}", "in_.epic"),
    # United States
    AnnouncedId(
        ("medicare", " mbi ", "beneficiary"),
        r"medicare|mbi|beneficiary",
        r"[1-9][AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y]\d-?[AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y]\d"
        r"-?[AC-HJKMNP-RT-Y]{2}\d\d",
        label="MEDICAL_RECORD",
    ),
    AnnouncedId(
        (" npi ", "provider"), r"npi|national[ ]provider|provider[ ]id\w*", r"[12]\d{9}", "npi"
    ),
    AnnouncedId((" dea ",), r"dea", r"[A-Z][A-Z9]\d{7}", "dea"),
    # Australia, New Zealand, United Kingdom
    AnnouncedId(
        ("medicare",), r"medicare", r"[2-6]\d{3}[ ]?\d{5}[ ]?\d", "medicare", "MEDICAL_RECORD"
    ),
    AnnouncedId(
        (" ird ", "inland rev"),
        r"ird|inland[ ]revenue",
        r"\d{2,3}-?\d{3}-?\d{3}",
        "nz.ird",
        "TAX_ID",
    ),
    AnnouncedId(
        (" utr ", "taxpayer ref"),
        r"utr|taxpayer[ ]reference",
        r"\d{5}[ ]?\d{5}",
        "gb.utr",
        "TAX_ID",
    ),
    # Germany
    AnnouncedId(
        ("versicher", "krankenkasse", "kvnr", "gesundheitskarte", "health insurance"),
        r"(?:kranken)?versicher\w*(?:[ -]?(?:nr|nummer))?|krankenkasse\w*|kvnr|gesundheitskarte"
        r"|health[ ]insurance",
        r"[A-Z]\d{9}",
        "kvnr",
        "MEDICAL_RECORD",
    ),
    AnnouncedId(
        ("versicherung", "rvnr", "sv n"),
        r"(?:renten|sozial)versicherung\w*|rvnr|sv-n(?:umme)?r|versicherungsnummer",
        r"\d\d[ ]?\d{6}[ ]?[A-Z][ ]?\d{3}",
    ),
    AnnouncedId(
        ("steuern", "steuer n", "st  nr", "st nr", "stnr", "finanzamt", "tax n"),
        r"steuer-?n(?:umme)?r|st\.?-?nr|finanzamt|tax[ ]n(?:o|umber)",
        r"\d{2,3}[ ]?/[ ]?\d{3,4}[ ]?/[ ]?\d{4,5}|\d{10,11}(?!\d)|\d{13}",
        "tax number",
        "TAX_ID",
    ),
    AnnouncedId(
        ("ausweis", "identity card", "id card", "perso n", "personr", "personummer"),
        r"(?:personal)?ausweis\w*|perso-?n(?:umme)?r|(?:identity|id)[ ]card",
        r"(?=[A-Z]*\d[A-Z]*\d)[CFGHJKLMNPRTVWXYZ][0-9CFGHJKLMNPRTVWXYZ]{8}(?:\d(?:<?<?D)?)?",
    ),
    # Asia
    AnnouncedId(
        ("thai", "บัตรประชาชน", "ประจำตัว"),
        r"thai(?:land)?|[^\W]*บัตรประชาชน|\w*ประจำตัว\w*",
        r"\d[ -]?\d{4}[ -]?\d{5}[ -]?\d\d[ -]?\d",
        "th.pin",
    ),
    AnnouncedId(
        ("rrn", "resident reg", "jumin", "주민"),
        r"rrn|resident[ ]registration|jumin|주민\w*",
        r"\d{6}-?[1-8]\d{6}",
        "rrn date",
    ),
    AnnouncedId(
        ("my number", "マイナンバー", "個人番号"),
        r"my[ ]number|マイナンバー|個人番号",
        _GROUPS_OF_4,
        "jp.in_",
    ),
    AnnouncedId((" nik ", "ktp "), r"nik|e?-?ktp", r"\d{16}", "id.nik"),
    # Europe
    AnnouncedId(
        ("henkil", "hetu", "personbeteckning", "finnish"),
        r"henkilö\w*|hetu|personbeteckning|finnish",
        r"\d{6}[+A-FU-Y-]\d{3}[0-9A-Z]",
        "hetu",
    ),
    AnnouncedId(("снилс", "snils"), r"снилс|snils", r"\d{3}-\d{3}-\d{3}[ -]\d\d", "snils"),
    AnnouncedId((" инн ", " inn "), r"инн|inn", r"\d{12}|\d{10}", "ru.inn", "TAX_ID"),
    AnnouncedId(("amka", "αμκα"), r"amka|αμκα", r"\d{11}", "gr.amka"),
)
LABELS = frozenset(each.label for each in ANNOUNCED)

# Between the name and the number: "number is now".
_AFTER_CHARS = 56
# Every number has four digits together, or letters among the digits.
_POSSIBLE = re.compile(r"\d(?:\d{3}|[A-Za-z]\w\d|\d[A-Za-z]|\d-\d{3})")
_SPACED = "\n\t(\"'*-:_/[{,."
_OTHER_SENTENCE = re.compile(r"[;!?]|\.\s+[A-Z]")
_COMPILED: tuple[tuple[AnnouncedId, re.Pattern[str], re.Pattern[str]], ...] = tuple(
    (
        each,
        re.compile(rf"(?<![^\W_])(?:{each.cue})(?![^\W_])", re.IGNORECASE),
        re.compile(rf"(?<![\w.+/-])(?:{each.pattern})(?![\w+/-]|\.\d)", re.IGNORECASE),
    )
    for each in ANNOUNCED
)


def with_spaces(lower: str) -> str:
    """Return a text with spaces in the place of what may stand before a word, and one before it."""
    spaced = f" {lower}"
    for sign in _SPACED:
        spaced = spaced.replace(sign, " ")
    return spaced


def announced_ids(text: str, lower: str) -> Iterator[Span]:
    """Yield the numbers of a text that come soon after their names.

    Parameters
    ----------
    lower : str
        The text in lower case.
    """
    if _POSSIBLE.search(text) is None:
        return
    spaced = with_spaces(lower)
    for each, cue, pattern in _COMPILED:
        if not any(map(spaced.__contains__, each.keys)):
            continue
        checks: Callable[[str], bool] | None = check_of(each.check) if each.check else None
        for name in cue.finditer(text):
            for number in pattern.finditer(text, name.end(), name.end() + _AFTER_CHARS):
                if _OTHER_SENTENCE.search(text, name.end(), number.start()):
                    break
                if checks is None or checks(number[0]):
                    yield Span(*number.span(), each.label)
                    break
