import time

import pytest

from floe_plugins.gate import Decision, Gate, Message
from floe_plugins.gate.detector import Span
from floe_plugins.gate.whole_values import whole_values


def widened(text: str, found: str, label: str = "ADDRESS", *, street: bool = True) -> str:
    """Return the whole value of the first place of a piece of a text."""
    span = Span(text.index(found), text.index(found) + len(found), label)
    streets = {span} if street else set()
    whole = whole_values(text, [span], streets=streets, bounds=(0, len(text)))[span]
    assert whole.label == label
    return text[whole.start : whole.end]


@pytest.mark.parametrize(
    ("text", "found", "whole"),
    [
        (
            "Send it to 7 Torvegade 12, Ribe, Denmark 6760, please.",
            "7 Torvegade 12",
            "7 Torvegade 12, Ribe, Denmark 6760",
        ),
        ("It is at 5 Elm Street. Please call.", "5 Elm Street", "5 Elm Street"),
        ("It is at 5 Elm Street in winter", "5 Elm Street", "5 Elm Street"),
        (
            "Ship to 12 Rue Haute\n3rd Floor\nVille de Namur\n5000 Belgium\nThanks a lot",
            "12 Rue Haute",
            "12 Rue Haute\n3rd Floor\nVille de Namur\n5000 Belgium",
        ),
        (
            "I moved to 8 Via Roma\nLucca 55100 last year",
            "8 Via Roma",
            "8 Via Roma\nLucca 55100",
        ),
        ("> 8 Via Roma\n> Lucca\n> 55100", "8 Via Roma", "8 Via Roma\n> Lucca\n> 55100"),
        ("Address: 4 R Alta Norte 16, Faro", "Norte 16", "4 R Alta Norte 16, Faro"),
        (
            "Meet at the corner of Lange Gasse and Ring Road",
            "Ring Road",
            "the corner of Lange Gasse and Ring Road",
        ),
        ("Send it to USS Example\nFPO AE 09501", "FPO AE 09501", "USS Example\nFPO AE 09501"),
        (
            "i live at 7 torvegade 12, ribe, denmark 6760 for now",
            "7 torvegade 12",
            "7 torvegade 12, ribe, denmark 6760",
        ),
        ("Lives in 10 Main Street\n\nThe next part.", "10 Main Street", "10 Main Street"),
        (
            "Wohnung Lindenstraße 27, 3. Stock links, 50674 Köln ist frei",
            "Lindenstraße 27",
            "Lindenstraße 27, 3. Stock links, 50674 Köln",
        ),
    ],
)
def test_an_address_is_whole(text: str, found: str, whole: str) -> None:
    assert widened(text, found) == whole


def test_the_first_word_of_a_sentence_is_no_street() -> None:
    assert widened("Visit 5 Elm Street before noon", "5 Elm Street") == "5 Elm Street"


def test_between_a_name_and_its_address_no_line_stays() -> None:
    text = "Dana Moss\nhead of payroll\nAcme and Sons\n5 Elm Street"
    spans = [Span(0, 9, "PERSON"), Span(text.index("5 Elm"), len(text), "ADDRESS")]
    found = whole_values(text, spans, streets={spans[1]}, bounds=(0, len(text)))
    assert text[found[spans[0]].start : found[spans[0]].end] == text[: spans[1].start - 1]
    sentence = "Dana Moss came\nand then we left\n5 Elm Street"
    spans = [Span(0, 9, "PERSON"), Span(sentence.index("5 Elm"), len(sentence), "ADDRESS")]
    found = whole_values(sentence, spans, streets=set(), bounds=(0, len(sentence)))
    assert found[spans[0]] == spans[0]


@pytest.mark.parametrize(
    ("text", "found", "label", "whole"),
    [
        ("the name Takáts here", "Tak", "PERSON", "Takáts"),
        ("in Groß-Enzersdorf now", "Groß", "LOCATION", "Groß-Enzersdorf"),
        ("at no 12345678 or so", "3456", "ID", "12345678"),
        ("e\u0301lan vital", "e", "PERSON", "e\u0301lan"),
        ("so \U0001f469\u200d\U0001f4bb it", "\U0001f469", "X", "\U0001f469\u200d\U0001f4bb"),
        # In a script without spaces a word has no end to look for.
        ("電話は03-1234-5678です", "03-1234-5678", "PHONE", "03-1234-5678"),
        ("key=ab12;x", "ab12", "API_KEY", "ab12"),
        ("well-known Ann", "Ann", "PERSON", "Ann"),
        ("Yours\nJ. Ashworth", ". Ashworth", "PERSON", "J. Ashworth"),
        ("for J.R. Ashworth, please", "Ashworth", "PERSON", "J.R. Ashworth"),
        ("Here I Ashworth", "Ashworth", "PERSON", "Ashworth"),
        ("call 0221 / 98 76 54 3.", "0221 / 98 76 54", "PHONE", "0221 / 98 76 54 3"),
    ],
)
def test_a_value_ends_in_no_word_number_or_character(
    text: str, found: str, label: str, whole: str
) -> None:
    assert widened(text, found, label, street=False) == whole


def test_nothing_is_read_outside_the_bounds() -> None:
    text = "5 Elm Street, Springfield 62701"
    span = Span(0, 12, "ADDRESS")
    for end in range(12, len(text) + 1):
        found = whole_values(text, [span], streets={span}, bounds=(0, end))[span]
        assert found.start == 0
        assert 12 <= found.end <= end


def test_redaction_takes_the_whole_address_and_leaves_other_messages_alone() -> None:
    gate = Gate(policy="redact")
    text = "Please return it to 68 Hulsterdreef Street, Ribe, Denmark 6760 in case of an issue."
    verdict = gate.decide(text)
    assert verdict.decision is Decision.REDACTED
    assert verdict.redacted_text == "Please return it to <ADDRESS> in case of an issue."
    both = gate.decide([Message("Ship it to 12 Main Street, Springfield"), Message("Monday 9")])
    assert both.redacted_messages is not None
    assert both.redacted_messages[0] == "Ship it to <ADDRESS>"
    assert both.redacted_messages[1] == "Monday 9"


def test_what_an_allow_list_names_stays() -> None:
    gate = Gate(policy="redact", allow={"values": ["Springfield"]})
    verdict = gate.decide("Ship it to 12 Main Street, Springfield, mail joe@example.org")
    assert verdict.redacted_text is not None
    assert "Main" not in verdict.redacted_text
    assert "joe" not in verdict.redacted_text


@pytest.mark.parametrize("piece", ["A ", "1 ", "\n", "and ", "A\n", "5 Elm Street\n", "a,"])
def test_time_does_not_grow_faster_than_the_text(piece: str) -> None:
    text = "5 Elm Street " + piece * 20_000
    begun = time.process_time()
    widened(text, "5 Elm Street")
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(
    "request_line",
    [
        "Explain Quicksort",
        "Write It In Python",
        "Can you help?",
        "Bitte Kurz",
        "Scrivi Una Lettera",
    ],
)
def test_what_is_asked_for_below_an_address_is_none_of_it(request_line: str) -> None:
    text = f"I live at 5 Elm Street\n{request_line}\nUse Python"
    assert widened(text, "5 Elm Street") == "5 Elm Street"


@pytest.mark.parametrize(
    ("between", "found", "taken"),
    [
        ("Acme and Sons", "0170 5551234", True),
        ("Acme and Sons", "12 Main Street", True),
        ("head of payroll", "12 Main Street", True),
        # A chat, in which names stand above what people say.
        ("head of payroll", "0170 5551234", False),
        ("How do I sort a list?", "Ben Carter", False),
        ("Use sorted() for this", "Ben Carter", False),
        ("How do I get there?", "12 Main Street", False),
        ("please be so kind as to send it", "12 Main Street", False),
        ("Translate this", "12 Main Street", False),
    ],
)
def test_between_two_findings_names_go_and_what_somebody_says_stays(
    between: str, found: str, taken: bool
) -> None:
    text = f"Dana Moss\n{between}\n{found}"
    spans = [Span(0, 9, "PERSON"), Span(text.index(found), len(text), "ADDRESS")]
    streets = {spans[1]} if "Street" in found else set()
    whole = whole_values(text, spans, streets=streets, bounds=(0, len(text)))[spans[0]]
    assert (text[whole.start : whole.end] == f"Dana Moss\n{between}") == taken
    assert whole == spans[0] or taken


@pytest.mark.parametrize(
    ("below", "gap"),
    [
        *[(line, gap) for line in ("Dear Tibor,", "Sehr geehrte Frau") for gap in ("\n", "\n\n")],
        *[(line, gap) for line in ("Chère Claire", "Cara Lucia") for gap in ("\n", "\n\n")],
        ("Invoice No 45", "\n"),
        ("To Whom It May Concern", "\n"),
        ("Cover Letter", "\n\n"),
        ("# Task", "\n\n"),
        ("3 March 2021", "\n\n"),
    ],
)
def test_the_letter_below_an_address_stays(below: str, gap: str) -> None:
    address = "12 Main Street\nSpringfield, IL 62701"
    assert widened(f"{address}{gap}{below}\nit is", "12 Main Street") == address


@pytest.mark.parametrize(
    "address",
    [
        "12 Main Street\nSpringfield, IL 62701\nUSA",
        "12 Main Street\nSpringfield\n\nIL 62702",
        "12 Main Street\nLes Pins, Bât. B\n69003 Lyon",
        "12 Main Street, Apt. 33, Lyon",
        "12 Main Street, 3º izq.\n28013 Madrid\nEspaña",
        "12345 Main Street\nVille Haute Of Namur\n5000 Belgium",
    ],
)
def test_abbreviations_codes_and_countries_are_of_an_address(address: str) -> None:
    found = address.split("Main")[0] + "Main Street"
    assert widened(f"{address}\n\nthen it is", found) == address


def test_a_finding_may_end_behind_its_message() -> None:
    text = "Ship it to 12 Main Street \nSpringfield"
    span = Span(text.index("12"), text.index("Spring"), "ADDRESS")
    bounds = (0, text.index("\n"))
    found = whole_values(text, [span], streets={span}, bounds=bounds)[span]
    assert text[found.start : found.end] == "12 Main Street"
