import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from floe_plugins.gate.detector import Detector, Span
from floe_plugins.gate.detectors import BUILT_IN_DETECTORS
from floe_plugins.gate.detectors.card import luhn
from floe_plugins.gate.detectors.iban import checks

DETECTORS = {detector.name: detector for detector in BUILT_IN_DETECTORS}


def found(name: str, text: str) -> list[str]:
    spans: Sequence[Span] = DETECTORS[name].detect(text)
    return [text[span.start : span.end] for span in spans]


# The text, with what is to be found in it between ⟦ and ⟧.
PRIVATE = {
    "email": [
        "⟦joe@example.org⟧",
        "Write to ⟦joe.bloggs+floe@mail.example.co.uk⟧.",
        "<⟦joe@example.org⟧>, ⟦ann@example.com⟧",
        "mailto:⟦joe@example.org⟧?subject=x",
        "⟦jürgen@bücher.example⟧",
        '⟦"joe bloggs"@example.org⟧',
        "⟦joe@[10.1.2.3]⟧",
        "⟦joe@xn--bcher-kva.example⟧",
        "⟦" + "a" * 100 + "@example.org⟧",
    ],
    "card": [
        "⟦4111111111111111⟧",
        "number ⟦4111 1111 1111 1111⟧ 12/28 123",
        "⟦4111-1111-1111-1111⟧,737",
        "⟦3782 822463 10005⟧",
        "⟦378282246310005⟧",
        "⟦3056 930902 5904⟧",
        "⟦5555.5555.5555.4444⟧",
        "⟦6011111111111117⟧x",
        "id⟦4111111111111111⟧",
        "12 2024 ⟦4111 1111 1111 1111⟧",
        "⟦4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1⟧",
        "⟦4111 1111\n1111 1111⟧",
        "⟦3530111333300000⟧",
        "⟦2223003122003222⟧",
    ],
    "iban": [
        "⟦DE89370400440532013000⟧",
        "⟦DE89 3704 0044 0532 0130 00⟧ please",
        "⟦gb82west12345698765432⟧.",
        "to ⟦NO93 8601 1117 947⟧, thanks",
        "⟦MT84 MALT 0110 0001 2345 MTLC AST0 01S⟧",
    ],
    "phone": [
        "⟦+49 30 1234567⟧",
        "⟦+1 (212) 555-0143⟧",
        "⟦(212) 555-0143⟧ or ⟦212-555-0199⟧",
        "⟦212.555.0143 x18⟧",
        "⟦0044 20 7946 0958⟧",
        "⟦020 7946 0958⟧",
        "⟦06-10446904⟧",
        "call me at ⟦785 8949⟧",
        "⟦9885 1152⟧ office",
        "WhatsApp: ⟦5551234567⟧",
    ],
    "ip-address": [
        "⟦192.168.1.44⟧:8080",
        "from ⟦203.0.113.7⟧.",
        "⟦2001:db8::8a2e:370:7334⟧",
        "[⟦2001:db8::1⟧]:443",
        "⟦fe80::1⟧%eth0",
        "⟦::ffff:203.0.113.7⟧",
        "⟦d80:e4b5:79da:6cf6:71f3:51f7:9161:c319⟧",
    ],
    "us-ssn": [
        "⟦078-05-1120⟧",
        "⟦078 05 1120⟧",
        "⟦078.05.1120⟧",
        "my SSN is ⟦078051120⟧",
        "⟦901-70-1234⟧",
    ],
    "secret": [
        "⟦sk-proj-abcdefghijklmnopqrstuvwx⟧",
        "key=⟦ghp_0123456789abcdefghijABCDEFGHIJ012345⟧;",
        "⟦AKIAIOSFODNN7EXAMPLE⟧",
        "⟦AIzaSyA0123456789abcdefghijklmnopqrstuv⟧",
        "⟦xoxb-123456789012-abcdefghijkl⟧",
        "⟦glpat-0123456789abcdefghij⟧",
        "⟦hf_abcdefghijklmnopqrstuvwxyz⟧",
        "⟦eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w⟧",
        "https://⟦joe:hunter2⟧@example.org/",
        "⟦-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----⟧ after",
        "⟦-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNza⟧",
    ],
}

CLEAR = {
    "email": ["a@b", "@joe wrote", "joe at example", "x @ y.z", "def f(self) -> int: ...  # 3@4"],
    "card": [
        "4111111111111112",
        "9111111111111111",
        "3.14159265358979323846",
        "order 1234567890123",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17",
        "16 / 4 * 23 + 42 - 17 * 365 = 2024 in 1999",
    ],
    "iban": [
        "DE89370400440532013001",
        "DE8937040044053201300",
        "XX89370400440532013000",
        "IS 5 OK",
    ],
    "phone": [
        "1993-01-04 14:56:41",
        "3 + 4 = 7 and 2400 / 200 = 12",
        "450,000-2000",
        "from 0900-0130 hours",
        "1000000000 bytes",
        "version 1.2.3.4",
        "12345678901234567890",
    ],
    "ip-address": [
        "127.0.0.1",
        "0.0.0.0",
        "255.255.255.0",
        "1.2.3.4.5",
        "300.1.2.3",
        "std::vector<int>",
        "a::b",
        "at 12:30:45",
        "::",
        "key: value",
    ],
    "us-ssn": [
        "000-12-3456",
        "666-12-3456",
        "123-00-4567",
        "123-45-0000",
        "123456789",
        "1-078-05-1120",
    ],
    "secret": [
        "task-force and risk-averse",
        "sk-learn",
        "import sklearn",
        "http://example.org:8080/a@b",
        "-----BEGIN PUBLIC KEY-----",
        "AKIA is a prefix",
    ],
}


@pytest.mark.parametrize(
    ("name", "marked"), [(name, text) for name, texts in PRIVATE.items() for text in texts]
)
def test_private_data_is_found_exactly(name: str, marked: str) -> None:
    expected = re.findall(r"⟦(.*?)⟧", marked, re.DOTALL)
    assert found(name, re.sub("[⟦⟧]", "", marked)) == expected


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in CLEAR.items() for text in texts]
)
def test_ordinary_text_is_let_be(name: str, text: str) -> None:
    assert found(name, text) == []


@pytest.mark.parametrize("detector", BUILT_IN_DETECTORS, ids=lambda detector: detector.name)
def test_detectors_keep_to_their_interface(detector: Detector) -> None:
    assert isinstance(detector, Detector)

    @given(st.text())
    def spans_are_valid(text: str) -> None:
        spans = detector.detect(text)
        assert spans == detector.detect(text)
        for span in spans:
            assert 0 <= span.start < span.end <= len(text)
            assert span.label in detector.labels

    spans_are_valid()


def with_check_digit(digits: str) -> str:
    return next(digits + str(last) for last in range(10) if luhn(digits + str(last)))


@given(st.text("0123456789", min_size=1, max_size=30))
def test_exactly_one_check_digit_fits(digits: str) -> None:
    assert sum(luhn(digits + str(last)) for last in range(10)) == 1


@given(st.text("0123456789", min_size=14, max_size=14), st.integers(0, 15), st.integers(1, 9))
def test_any_wrong_digit_of_a_card_shows(body: str, place: int, step: int) -> None:
    number = with_check_digit("4" + body)
    wrong = number[:place] + str((int(number[place]) + step) % 10) + number[place + 1 :]
    assert found("card", f"no {number} ok") == [number]
    assert not luhn(wrong)


@given(st.text("0123456789", min_size=18, max_size=18), st.integers(1, 98))
def test_only_the_right_check_digits_make_an_iban(account: str, step: int) -> None:
    # ISO 13616: 98 minus the remainder of the account, country and "00" as digits; D=13, E=14.
    right = 98 - int(account + "131400") % 97
    assert checks(f"DE{right:02}{account}")
    wrong = (right + step) % 100
    assert checks(f"DE{wrong:02}{account}") == ((wrong - right) % 97 == 0)
    assert found("iban", f"from DE{right:02}{account}.") == [f"DE{right:02}{account}"]
