"""National numbers, found with right check digits and not with wrong ones."""

import pytest

from floe_plugins.gate import Decision, Gate
from floe_plugins.gate.detectors.id_checks import dea, hetu, kvnr, medicare, npi, rvnr, snils
from floe_plugins.gate.detectors.identity_numbers import NationalIdDetector

DETECTOR = NationalIdDetector()


def found(text: str) -> list[str]:
    return [text[span.start : span.end] for span in DETECTOR.detect(text)]


FOUND = {
    "PAN card: AFZPK7190K": "AFZPK7190K",
    "Permanent account number is bnzpm2501f": "bnzpm2501f",
    "our GSTIN is 29AAGCB7383J1Z4": "29AAGCB7383J1Z4",
    "invoice of 27AAPFU0939F1ZV": "27AAPFU0939F1ZV",
    "my aadhar no. is 2341 2341 2346": "2341 2341 2346",
    "Aadhaar-number 234123412346": "234123412346",
    "card 2AC3-CD4-EF56 of hers": "2AC3-CD4-EF56",
    "Medicare number 2AC3CD4EF56": "2AC3CD4EF56",
    "NPI: 1245319599": "1245319599",
    "her DEA registration is BJ6125341": "BJ6125341",
    "Medicare card 2123 45670 1": "2123 45670 1",
    "Meine Krankenversichertennummer lautet A000500015": "A000500015",
    "RVNR 65 170839 J 008": "65 170839 J 008",
    "Sozialversicherungsnummer: 65170839J003": "65170839J003",
    "Steuernummer 21/815/08150": "21/815/08150",
    "Finanzamt, Nr. 181/815/08155": "181/815/08155",
    "Ausweisnummer T22000129": "T22000129",
    "ID card no. LZ6311T475": "LZ6311T475",
    "Thailand ID 1-1014-00123-46-9": "1-1014-00123-46-9",
    "주민등록번호 900101-1234567": "900101-1234567",
    "RRN: 0203043234567": "0203043234567",
    "henkilötunnukseni on 131052-308T": "131052-308T",
    "hetu 010190-951B": "010190-951B",
    "СНИЛС 112-233-445 95": "112-233-445 95",
}


@pytest.mark.parametrize(("text", "number"), FOUND.items())
def test_numbers_are_found(text: str, number: str) -> None:
    assert number in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "a frying pan for 12345 people; ABCPD1234E is a part",
        "the order AFZPK7190K was shipped",
        "2341 2341 2346 and 3000 4000 5000",
        "my aadhaar is 2341 2341 2347",
        "27AAPFU0939F1ZX",
        "NPI 1245319598",
        "1245319599 rows",
        "DEA BJ6125342",
        "Versichertennummer A000500016",
        "T22000129 is a serial",
        "Thai ID 1-1014-00123-46-6",
        "900101-1234567 is an order",
        "131052-308U",
        "RRN 901301-1234567",
    ],
)
def test_other_numbers_are_not(text: str) -> None:
    assert found(text) == []


def test_exactly_one_check_digit_is_right() -> None:
    assert sum(npi(f"124531959{last}") for last in range(10)) == 1
    assert sum(dea(f"BJ612534{last}") for last in range(10)) == 1
    assert sum(medicare(f"21234567{last}1") for last in range(10)) == 1
    assert sum(kvnr(f"A00050001{last}") for last in range(10)) == 1
    assert sum(rvnr(f"65170839J00{last}") for last in range(10)) == 1
    assert sum(hetu(f"131052-308{last}") for last in "0123456789ABCDEFHJKLMNPRSTUVWXY") == 1
    assert sum(snils(f"112-233-445 {last:02}") for last in range(100)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "there were 2 offices in the old part of town with the CPF 111.444.777-35",
        "Here are the details:\nVIN: 1HGCM82633A004352",
        "Here they are:\nPlate number: AB12 CDE",
    ],
)
def test_numbers_far_behind_another_number_and_names_at_a_line_s_begin(text: str) -> None:
    assert Gate(timeout_s=30).decide(text).decision is Decision.LOCAL
