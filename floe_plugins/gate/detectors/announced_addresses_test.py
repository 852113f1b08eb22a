import pytest

from floe_plugins.gate import Decision, Gate
from floe_plugins.gate.detectors.announced_addresses import AnnouncedAddressDetector


def found(text: str) -> list[str]:
    return [text[span.start : span.end] for span in AnnouncedAddressDetector().detect(text)]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("My address is 14 Kalevankangas 3, thanks.", "14 Kalevankangas 3"),
        ("my new address: 9 heuvelrug 120", "9 heuvelrug 120"),
        ("Adresse: Unterm Dorfe 7", "Unterm Dorfe 7"),
        ("Tom lives at 31 Hosszú Fasor and Ann does not.", "31 Hosszú Fasor"),
        ("Here is the address of Olga is 5 Malá Strana 12", "5 Malá Strana 12"),
        ("If found, please return it to Anna and Nordby 214.", "Anna and Nordby 214"),
        ("A taxi to Solbakken 18a, please.", "Solbakken 18a"),
        ("Our office is at Krasnaya Presnya 40", "Krasnaya Presnya 40"),
        ("Ship it to Bergstua 77 before noon", "Bergstua 77"),
        ("Kossuth Lajos utca 12", "Lajos utca 12"),
        ("we met in Rákóczi út 4.", "Rákóczi út 4"),
        ("the party is in schönhauser allee 36", "schönhauser allee 36"),
        ("Karlova ulice 9", "Karlova ulice 9"),
        ("80 kestrel row, apt. 12", "80 kestrel row, apt. 12"),
        ("22 Lövgatan 5\nSuite 301", "22 Lövgatan 5\nSuite 301"),
        ("They moved to Skogly 11 street last year", "Skogly 11 street"),
    ],
)
def test_an_address_shows_by_what_stands_around_it(text: str, address: str) -> None:
    assert found(text) == [address]
    decided = Gate(detectors=("announced-address",), timeout_s=30).decide(text)
    assert decided.decision is not Decision.CLEAR


def test_the_town_with_its_post_code_belongs_to_it() -> None:
    text = "The address is 44 Hagaberg 2,\nSkövde\n54133, and the key is under the mat."
    assert found(text) == ["44 Hagaberg 2,\nSkövde\n54133"]


@pytest.mark.parametrize(
    "text",
    [
        "Return to page 12 and to Step 3.",
        "Taxi to Gate 12 at once.",
        "The address is 0x7ffe and the next address is 16 bytes behind.",
        "Address: 127.0.0.1, port 80",
        "Please address Question 4 first.",
        "He lived at a time when 3 in 10 died; she lives at 10 am and 4 pm.",
        "Ship it to Python 3.12, or deliver to Windows 11.",
        "The office is in Building 3 on Floor 12.",
        "We return to Rome 2 times.",
        "Alle 12 Schüler, viele 30 Jahre alt, in der Straße 12 Minuten lang",
        "Buy 12 eggs; unit 4 follows; see suite 3 of the tests.",
        "the first 10 street musicians",
    ],
)
def test_other_numbers_are_none(text: str) -> None:
    assert not found(text)
