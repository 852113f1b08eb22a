"""How national numbers are written, which module of python-stdnum checks them, and their names."""

from typing import NamedTuple


class Form(NamedTuple):
    """One way to write one kind of number.

    Attributes
    ----------
    module : str
        Below `stdnum`; its ``is_valid`` decides.
    pattern : str
        What is given to the check.
    cue : str or None
        A pattern of words of which one must stand before the number. None where the way it is
        written and its check leave little to chance.
    label : str
        The label.
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
    Form("fi.hetu", r"\d{6}[+A-FU-Y-]\d{3}[0-9A-Z]"),
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
    Form("in_.pan", r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]", label="TAX_ID"),
    Form("in_.aadhaar", r"[2-9]\d{3}[ -]\d{4}[ -]\d{4}"),
    Form("kr.rrn", r"\d{6}-[1-8]\d{6}"),
    Form("za.idnr", r"\d{6} ?\d{4} ?[01]\d\d"),
    Form("tr.tckimlik", r"[1-9]\d{10}"),
    Form("ca.sin", r"[1-79]\d\d([ -])\d{3}\1\d{3}"),
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
    Form("in_.aadhaar", r"\d{12}", r"aadhaar|uidai"),
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
    # The letters in front say which country's check is meant.
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

# Not in python-stdnum, or without a check; letters and their places are all there is.
UNCHECKED: tuple[Form, ...] = (
    # United Kingdom, national insurance: prefixes that are not used are left out.
    Form(
        "",
        r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]",
    ),
    Form("", r"[STFGM]\d{7}[A-Z]"),  # Singapore
    Form("", r"[A-Z]{1,2}\d{6}\([0-9A]\)"),  # Hong Kong
    Form("", r"[A-Z][12]\d{8}", r"taiwan|身分證|身份證|id"),  # Taiwan
)
