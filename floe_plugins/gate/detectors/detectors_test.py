import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from floe_plugins.gate.detector import Detector, Span
from floe_plugins.gate.detectors import BUILT_IN_DETECTORS
from floe_plugins.gate.detectors.financial import base58_checks, iban_checks, luhn

DEFAULTS = [each for each in BUILT_IN_DETECTORS if getattr(each, "default", True)]
DETECTORS = {detector.name: detector for detector in DEFAULTS}


def found(name: str, text: str) -> list[str]:
    spans: Sequence[Span] = DETECTORS[name].detect(text)
    return [text[span.start : span.end] for span in spans]


# The text, with the expected findings between ⟦ and ⟧.
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
        "my password is ⟦hunter2⟧",
        "password: ⟦correcthorse⟧",
        "https://example.org/a?user=1&token=⟦abcd1234efgh⟧#x",
        "Authorization: Bearer ⟦a1b2c3d4e5f6g7h8i9j0k1⟧",
        "MY_SECRET=⟦c3VwZXJzZWNyZXQxMjM0NTY3ODk⟧",
        "api_key = '⟦9f8a7b6c5d4e3f2a1b0c9d8e⟧'",
    ],
    "announced": [
        "My driver's license number is ⟦B1234567⟧",
        "passport: ⟦X1234567⟧",
        "zip code ⟦90210⟧",
        "my account number is ⟦12345678⟧, thanks",
        "MRN ⟦00123456⟧",
        "VIN: ⟦1HGCM82633A004352⟧",
        "employee id ⟦55512⟧",
        "born on ⟦May 5, 1983⟧ in a small town",
        "DOB: ⟦1983-05-05⟧",
        "it has been so since ⟦5/8/1959⟧",
        "I'm ⟦34⟧ and tired",
    ],
    "crypto": [
        "send it to ⟦1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa⟧.",
        "⟦bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq⟧",
        "⟦BC1QAR0SRRR7XFKVY5L643LYDNW9RE59GTZZWF5MDQ⟧",
        "⟦bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0⟧",
        "⟦0x52908400098527886E0F7030069857D2E4169EE7⟧",
        "XRP: ⟦rHb9CJAWyB4rj91VRWn96DkukG4bwdtyTh⟧",
    ],
    "mac-address": ["mac ⟦00:1B:44:11:3A:B7⟧.", "⟦00-1b-44-11-3a-b7⟧", "⟦001b.4411.3ab7⟧ up"],
    "national-id": [
        "CPF ⟦390.533.447-05⟧",
        "DNI ⟦54362315K⟧",
        "apt 12 ⟦880320-0016⟧",
        "⟦RCCMNL83S18D969H⟧",
        "n° ⟦2 95 10 99 126 111 93⟧",
        "⟦131052-308T⟧",
        "PESEL ⟦44051401359⟧",
        "BSN: ⟦111222333⟧",
        "⟦DE136695976⟧ is our VAT number",
        "⟦GB 980 7806 84⟧",
        "⟦756.9217.0769.85⟧",
        "⟦AB 12 34 56 C⟧",
        "CURP ⟦BOXW310820HNERXN09⟧",
        "⟦11010519491231002X⟧",
        "⟦20-05536168-2⟧",
        "Aadhaar ⟦2341 2341 2346⟧",
    ],
    "personal-url": [
        "My website is ⟦https://example.org/⟧",
        "she posted a picture ⟦http://example.net/p/1⟧",
        "⟦https://www.linkedin.com/in/joe-bloggs⟧",
    ],
    "postal-address": [
        "at ⟦10 Downing Street⟧ now",
        "⟦500 W 42nd St, Apt 3B⟧",
        "in ⟦Musterstraße 12, 12345 Berlin⟧",
        "⟦12 rue de la Paix, 75002 Paris⟧",
        "⟦Calle Mayor 5, 28013 Madrid⟧",
        "⟦ul. Długa 7/3⟧",
        "⟦SW1A 1AA⟧",
        "⟦K1A 0B1⟧",
        "write to ⟦P.O. Box 12⟧",
        "⟦Unit 12 Box 34⟧",
    ],
    "statement": [
        "My son has ⟦asthma⟧.",
        "I was diagnosed with type 2 ⟦diabetes⟧ last year",
        "she's allergic to ⟦penicillin⟧",
        "I take ⟦Prozac⟧ every day",
        "my wife is ⟦pregnant⟧",
        "i am ⟦gay⟧ and afraid to say so",
        "I'm a practicing ⟦Muslim⟧",
        "My mother is ⟦Jewish⟧",
        "I ⟦voted for Labour⟧",
        "I am a ⟦member of the teamsters union⟧",
        "my landlord is ⟦Kurdish⟧",
        "he was ⟦arrested for theft⟧",
        "my father has ⟦Parkinson⟧'s disease",
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
        "the password is wrong",
        "password = os.environ['X']",
        "commit 3f786850e387550fdab836ed7e6dc881de23001b",
        "sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "the token is tokenization_of_words",
        "uuid 123e4567-e89b-12d3-a456-426614174000",
    ],
    "announced": [
        "order number 12345",
        "released on 3/4/2021",
        "2024-05-01 12:00:01 INFO started",
        "version 1.2.3",
        "account balance is 500",
        "I'm 90% sure",
        "she is 5 feet tall",
        "post 12 letters",
        "the case has 3 parts",
    ],
    "crypto": [
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb",
        "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdp",
        "0xdeadbeef",
        "3f786850e387550fdab836ed7e6dc881de23001b",
    ],
    "mac-address": [
        "at 12:30:45:00:00:00:11",
        "aa:bb:cc:dd:ee:ff:00:11",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
    ],
    "national-id": [
        "order 44051401358",
        "12345678901",
        "2019 2020 2021",
        "046 454 287",
        "tracking number 123456789",
        "390.533.447-06",
        "commit 3f786850e387550fdab836ed7e6dc881de23001b",
        "version 10.20.30-45",
    ],
    "personal-url": [
        "see https://docs.python.org/3/",
        "my question is about http status codes",
        "https://github.com/pallets/flask",
    ],
    "postal-address": [
        "3 apples a day in a way",
        "5 miles down the road",
        "100 new students walk 3 miles",
        "During 2000-2012",
        "offering 48 cans",
        "There are 5 houses on a street",
        "via the IDIOMS at 12, 24 months",
        "the unit holds 12 boxes",
    ],
    "statement": [
        "What helps against asthma?",
        "My religion does not allow speaking to bots",
        "I am not pregnant",
        "I like Italian food",
        "join two tables with union",
        "What are the symptoms of diabetes?",
        "I'm out",
        "the wall is black",
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


@pytest.mark.parametrize("detector", DEFAULTS, ids=lambda detector: detector.name)
def test_detectors_keep_to_their_interface(detector: Detector) -> None:
    assert isinstance(detector, Detector)
    # The time for loading must not count against the first example.
    assert detector.detect("") == []

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
    assert iban_checks(f"DE{right:02}{account}")
    wrong = (right + step) % 100
    assert iban_checks(f"DE{wrong:02}{account}") == ((wrong - right) % 97 == 0)
    assert found("iban", f"from DE{right:02}{account}.") == [f"DE{right:02}{account}"]


def test_a_wrong_character_of_a_crypto_address_shows() -> None:
    address = "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"
    assert base58_checks(address)
    assert not any(
        base58_checks(address[:place] + letter + address[place + 1 :])
        for place in range(1, len(address))
        for letter in "2Zz"
        if letter != address[place]
    )
