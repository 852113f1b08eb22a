"""Identity, tax and VAT numbers of many states, and United States social security numbers.

python-stdnum checks the digits. A form describes how a number is written, which module of
python-stdnum checks it, and which words precede it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.id_checks import check_of
from floe_plugins.gate.detectors.national_ids import LABELS, announced_ids
from floe_plugins.gate.detectors.pattern import PatternDetector
from floe_plugins.gate.growing import Growing


class Form(NamedTuple):
    """One way to write one kind of number.

    Attributes
    ----------
    module : str
        The name of the check, for `check_of`. Empty if there is none.
    pattern : str
        Matches the text that is checked.
    cue : str or None
        A pattern of words, one of which must precede the number. None if form and check leave
        little to chance.
    """

    module: str
    pattern: str
    cue: str | None = None
    label: str = "NATIONAL_ID"


FORMS: tuple[Form, ...] = (
    # Written in a way of their own.
    Form("br.cpf", r"\d{3}\.\d{3}\.\d{3}-\d\d"),
    Form("br.cnpj", r"\d\d\.\d{3}\.\d{3}/\d{4}-\d\d", label="TAX_ID"),
    Form("cl.rut", r"\d{1,2}\.\d{3}\.\d{3}-[\dKk]"),
    Form("es.dni", r"\d{8}-?[A-Z]"),
    Form("es.nie", r"[XYZ]-?\d{7}-?[A-Z]"),
    Form("it.codicefiscale", r"[A-Z]{6}\d\d[A-EHLMPRST]\d\d[A-Z]\d{3}[A-Z]"),
    Form("fr.nir", r"[12] ?\d\d ?(?:0[1-9]|1[0-2]|[2-9]\d) ?\d[\dAB] ?\d{3} ?\d{3} ?\d\d"),
    Form("hetu", r"\d{6}[+A-FU-Y-]\d{3}[0-9A-Z]"),
    Form("se.personnummer", r"(?:19|20)?\d{6}[-+]\d{4}"),
    Form("dk.cpr", r"[0-3]\d[01]\d\d\d-\d{4}"),
    Form("no.fodselsnummer", r"[0-7]\d[0-5]\d{3} ?\d{5}"),
    Form("be.nn", r"\d\d\.\d\d\.\d\d-\d{3}\.\d\d"),
    Form("bg.egn", r"\d{10}", r"egn|егн"),
    Form("pl.pesel", r"\d{11}"),
    Form("cz.rc", r"\d{6}/\d{3,4}"),
    Form("ro.cnp", r"[1-9]\d{12}"),
    Form("gb.nhs", r"\d{3} \d{3} \d{4}", r"nhs", "MEDICAL_RECORD"),
    Form("mx.curp", r"[A-Z]{4}\d{6}[HMX][A-Z]{5}[0-9A-Z]\d"),
    Form("mx.rfc", r"[A-ZÑ&]{3,4}\d{6}[0-9A-Z]{3}", label="TAX_ID"),
    Form("cn.ric", r"[1-9]\d{5}(?:19|20)\d{9}[\dXx]"),
    Form("in_.gstin", r"\d\d[A-Z]{5}\d{4}[A-Z][1-9A-Z]Z[0-9A-Z]", label="TAX_ID"),
    Form("rvnr", r"\d\d ?\d{6} ?[A-Z] ?\d{3}"),
    Form("th.pin", r"\d-\d{4}-\d{5}-\d\d-\d"),
    Form("pk.cnic", r"\d{5}-\d{7}-\d"),
    Form("kr.rrn", r"\d{6}-[1-8]\d{6}"),
    Form("za.idnr", r"\d{6} ?\d{4} ?[01]\d\d"),
    Form("tr.tckimlik", r"[1-9]\d{10}"),
    # Three numbers of three digits are seldom one.
    Form(
        "ca.sin",
        r"[1-79]\d\d(?P<sep>[ -])\d{3}(?P=sep)\d{3}",
        r"sin|social insurance|assurance sociale",
    ),
    Form("ar.cuit", r"\d\d-\d{8}-\d", label="TAX_ID"),
    Form("ch.ssn", r"756\.\d{4}\.\d{4}\.\d\d"),
    Form("ee.ik", r"[1-6]\d{10}", r"isikukood|personal code"),
    Form("lt.asmens", r"[3-6]\d{10}", r"asmens"),
    Form("hr.oib", r"\d{11}", r"oib"),
    Form(
        "de.idnr", r"\d\d ?\d{3} ?\d{3} ?\d{3}", r"steuer|identifikationsnummer|idnr|tax", "TAX_ID"
    ),
    Form("nl.bsn", r"\d{3}[ .]?\d{2,3}[ .]?\d{3}", r"bsn|burgerservicenummer|sofi"),
    Form("pt.nif", r"\d{3} ?\d{3} ?\d{3}", r"nif|contribuinte", "TAX_ID"),
    Form("br.cpf", r"\d{11}", r"cpf"),
    Form("br.cnpj", r"\d{14}", r"cnpj", "TAX_ID"),
    Form("au.tfn", r"\d{3} ?\d{3} ?\d{3}", r"tfn|tax file", "TAX_ID"),
    Form("ca.sin", r"\d{9}", r"\bsin\b|social insurance"),
    Form("us.itin", r"9\d\d-?\d\d-?\d{4}", r"itin", "TAX_ID"),
    Form("us.ein", r"\d\d-\d{7}", r"ein|employer", "TAX_ID"),
    Form("il.idnr", r"\d{8,9}", r"teudat|israeli? id|t\.?z\.?"),
    Form("my.nric", r"\d{6}-\d\d-\d{4}"),
    Form("co.nit", r"\d{3}\.\d{3}\.\d{3}-\d", label="TAX_ID"),
    Form("jp.cn", r"\d{13}", r"法人番号", "TAX_ID"),
    Form("ie.pps", r"\d{7}[A-W][A-IW]?"),
    Form("fr.nif", r"[0-3]\d ?\d\d ?\d{3} ?\d{3} ?\d{3}", r"fiscal|impôt|spi", "TAX_ID"),
    # The letters at the beginning select the country's check.
    Form(
        "eu.vat",
        r"(?:AT ?U\d{8}|BE ?[01]\d{9}|BG ?\d{9,10}|CY ?\d{8}[A-Z]|CZ ?\d{8,10}|DE ?\d{9}|DK ?\d{8}"
        r"|EE ?\d{9}|EL ?\d{9}|ES ?[0-9A-Z]\d{7}[0-9A-Z]|FI ?\d{8}|FR ?[0-9A-Z]{2} ?\d{9}"
        r"|HR ?\d{11}|HU ?\d{8}|IE ?\d[0-9A-Z+*]\d{5}[A-Z]{1,2}|IT ?\d{11}|LT ?(?:\d{9}|\d{12})"
        r"|LU ?\d{8}|LV ?\d{11}|MT ?\d{8}|NL ?\d{9}B\d\d|PL ?\d{10}|PT ?\d{9}"
        r"|RO ?\d{4,10}|SE ?\d{12}"
        r"|SI ?\d{8}|SK ?\d{10})",
        label="VAT_ID",
    ),
    Form("gb.vat", r"GB ?\d{3} ?\d{4} ?\d\d(?: ?\d{3})?", label="VAT_ID"),
    Form("ch.vat", r"CHE-?\d{3}\.?\d{3}\.?\d{3} ?(?:MWST|TVA|IVA)", label="VAT_ID"),
    Form("no.mva", r"NO ?\d{9} ?MVA", label="VAT_ID"),
)

# Not in python-stdnum, or without a check; only letters and their positions count.
UNCHECKED: tuple[Form, ...] = (
    # United Kingdom, national insurance: prefixes that are not used are left out.
    Form(
        "",
        r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]",
    ),
    Form("", r"[STFGM]\d{7}[A-Z]"),  # Singapore
    # United States, Medicare beneficiaries; no letter that is like a digit
    Form(
        "",
        r"[1-9][AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y]\d-[AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y]\d"
        r"-[AC-HJKMNP-RT-Y]{2}\d\d",
        label="MEDICAL_RECORD",
    ),
    # United Kingdom, driving licences
    Form("", r"[A-Z]{2,5}9{0,3}\d[0156]\d[0-3]\d\d[A-Z][A-Z9]\d[A-Z]{2}", label="DRIVER_LICENSE"),
    Form("", r"[A-Z]{1,2}\d{6}\([0-9A]\)"),  # Hong Kong
    Form("", r"[A-Z][12]\d{8}", r"taiwan|身分證|身份證|id"),  # Taiwan
)


# No form has fewer than six digits, the first two of them together.
_DIGITS = re.compile(r"\d\W?\d(?:\w?\W{0,2}\d){4}")
_CUE_CHARS = 48
_DIGIT = re.compile(r"\d")
# The numbers of a Medicare beneficiary and of an Indian company: their digits are apart.
_APART = re.compile(r"\d[A-Z]\w\d-[A-Z]\w\d-[A-Z]|\d[A-Z]{5}\d{4}[A-Z]")


# The possible beginning of a number, and all that may belong to it.
_REGION = re.compile(r"(?<![\w.+/-])[A-ZÑ&]{0,6}[ -]?\d(?:[ ./(-]{0,2}[0-9A-Za-z+]){5,}+")
_START = re.compile(r"(?<![\w.+/-])[A-ZÑ&\d]")


class _Compiled(NamedTuple):
    form: Form
    pattern: re.Pattern[str]
    cue: re.Pattern[str] | None


def _compiled(form: Form) -> _Compiled:
    cue = (
        re.compile(rf"(?<!\w)(?:{form.cue})(?!\w)|{form.cue}(?=\w*\W)", re.I) if form.cue else None
    )
    return _Compiled(form, _pattern(form.pattern), cue)


def _pattern(form: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.+/-])(?:{form})(?![\w+/-]|\.\d)")


_COMPILED = tuple(map(_compiled, (*FORMS, *UNCHECKED)))
_BY_LETTER = tuple(
    entry for entry in _COMPILED if re.match(r"(?:\(\?\S+?\)|\(\?:)*\[?[A-Z]", entry.form.pattern)
)
_BY_DIGIT = tuple(entry for entry in _COMPILED if entry not in _BY_LETTER)
# At most places none matches, which one pattern tells sooner than forty.
_ANY_BY_LETTER, _ANY_BY_DIGIT = (
    _pattern("|".join(f"(?:{entry.form.pattern})" for entry in entries))
    for entries in (_BY_LETTER, _BY_DIGIT)
)


class NationalIdDetector:
    """Finds numbers with which states identify people and companies.

    A number counts if its check digits are right and either its form is characteristic or its name
    precedes it. If a country's number consists of digits only, with one check digit, the name is
    required: otherwise one in ten of all numbers would count.
    """

    name = "national-id"
    labels: Sequence[str] = tuple(sorted({entry.form.label for entry in _COMPILED} | LABELS))
    #: Characters before new text that may take part in a new finding.
    reach = 192

    def detect(self, text: str) -> Sequence[Span]:
        """Return the national numbers of a text."""
        if _DIGIT.search(text) is None:
            return []
        spans: set[Span] = set(announced_ids(text, text.lower()))
        if _DIGITS.search(text) is None and _APART.search(text) is None:
            return sorted(spans)
        for region in _REGION.finditer(text):
            if _DIGITS.search(region[0]) or _APART.search(region[0]):
                for place in _START.finditer(text, region.start(), region.end()):
                    spans.update(_at(text, place.start()))
        return sorted(spans)

    def may_find(self, grown: Growing) -> bool:
        """Return whether new text may make a finding: there is a digit in it or near it."""
        return grown.since_digit <= 24


def _at(text: str, start: int) -> Iterator[Span]:
    """Yield the numbers that begin at a place."""
    by_digit = text[start].isdigit()
    if (_ANY_BY_DIGIT if by_digit else _ANY_BY_LETTER).match(text, start) is None:
        return
    for form, pattern, cue in _BY_DIGIT if by_digit else _BY_LETTER:
        match = pattern.match(text, start)
        if match is None or (cue and not cue.search(text, max(0, start - _CUE_CHARS), start)):
            continue
        if not form.module or check_of(form.module)(match[0]):
            yield Span(start, match.end(), form.label)


_SSN_CUE = re.compile(r"\b(?:ssn|social\s+security|itin|tax(?:payer)?\s+id)", re.IGNORECASE)
_SSN_CUE_CHARS = 60


def _has_separator_or_keyword(match: re.Match[str]) -> bool:
    if match["separator"]:
        return True
    start = match.start()
    return _SSN_CUE.search(match.string, max(0, start - _SSN_CUE_CHARS), start) is not None


US_SSN = PatternDetector(
    name="us-ssn",
    label="US_SSN",
    # No area is 000, 666 or, for citizens, above 899 (those are taxpayer numbers, private too);
    # no group is 00, no serial 0000.
    pattern=re.compile(
        r"(?<![\w-])(?!000|666)\d{3}(?P<separator>[ .-]?)"
        r"(?!00)\d{2}(?P=separator)(?!0000)\d{4}(?![\w-])"
    ),
    confirms=_has_separator_or_keyword,
    reach=96,
    digits=True,
)
