import time

import pytest

from floe_plugins.gate import Decision, Gate
from floe_plugins.gate.detector import Span
from floe_plugins.gate.linked_values import linked_values

STREET = "12 Main Street"


def left(text: str, found: str = STREET, label: str = "ADDRESS", *, street: bool = True) -> str:
    """Return what is left of a text without a finding in it and what belongs to that."""
    span = Span(text.index(found), text.index(found) + len(found), label)
    streets = {span} if street else set()
    linked = linked_values(text, [span], streets=streets, bounds=(0, len(text)))
    kept = list(text)
    for each in [span, *linked]:
        assert 0 <= each.start < each.end <= len(text)
        kept[each.start : each.end] = [""] * (each.end - each.start)
    return "".join(kept)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("The Blue Kettle office is at 12 Main Street", "The  office is at "),
        ("The address of Blue Kettle is 12 Main Street.", "The address of  is ."),
        ("Here is Tibor's home address:\n12 Main Street", "Here is 's home address:\n"),
        ("Tibor had given Ilka his address: 12 Main Street", " had given  his address: "),
        ("See you Friday at Blue Kettle, 12 Main Street", "See you "),
        ("Mrs. 12 Main Street", ""),
        ("Send it to 12 Main Street 90210.", "Send it to ."),
        ("Send it to 4 Alta u. 12 Main Street", "Send it to "),
        ("Turn at 12 Main Street and Ring Road 7 soon", "Turn at  soon"),
        ("Blue Kettle\n\n12 Main Street", ""),
        ("> Tibor Varga\n> Blue Kettle and Sons\n> 12 Main Street", "> "),
        ("The Blue Kettle's office moved to 12 Main Street", "The  office moved to "),
        ("The Home Depot store is at 12 Main Street", "The  store is at "),
        ("We met at the Blue Kettle, 12 Main Street", "We met at the , "),
        ("We met at Noon, 12 Main Street", "We met at Noon, "),
        ("[10:01] Tibor: my address is 12 Main Street", "[10:01] : my address is "),
        ("User: my address is 12 Main Street", "User: my address is "),
        ("Task: I live at 12 Main Street", "Task: I live at "),
        # No name: a sentence, a salutation, the title of what follows.
        ("I moved last year\n12 Main Street", "I moved last year\n"),
        ("Dear Sir,\n12 Main Street", "Dear Sir,\n"),
        ("Where To Send:\n12 Main Street", "Where To Send:\n"),
        ("Blue Kettle\n\n\n12 Main Street", "Blue Kettle\n\n\n"),
    ],
)
def test_who_has_an_address_goes_with_it(text: str, kept: str) -> None:
    assert left(text) == kept


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Call 0170 5551234, I am in Ulm until May", "Call , I am in  until May"),
        ("Mr. Varga is on 0170 5551234", "Mr.  is on "),
        ("Mrs. May is on 0170 5551234", "Mrs.  is on "),
        ("June's number: 0170 5551234", "'s number: "),
        ("so tibor's number: 0170 5551234", "so 's number: "),
        ("But all call me Ilka, 0170 5551234", "But all call me , "),
        ("Date: 2001-02-03 10:11:12\nPhone: 0170 5551234", "Date: \nPhone: "),
        ("Released 2001-02-03, call 0170 5551234", "Released 2001-02-03, call "),
        ("It is written in Python, call 0170 5551234", "It is written in Python, call "),
        ("Mr. Varga " + "x " * 150 + "0170 5551234", "Mr. Varga " + "x " * 150),
    ],
)
def test_people_and_places_beside_a_finding_go_with_it(text: str, kept: str) -> None:
    assert left(text, "0170 5551234", "PHONE", street=False) == kept


@pytest.mark.parametrize(
    "text",
    [
        "I sent the mail to 0170 5551234",
        "He told me to call 0170 5551234",
        "Here's my phone number: 0170 5551234",
        "What's the address 0170 5551234",
        "The user's number: 0170 5551234",
        "It took 200 ms. The rest: 0170 5551234",
        "We miss London, 0170 5551234",
        "20 ms 0170 5551234",
        "Sr. Software Engineer, 0170 5551234",
        "Call me Tomorrow, 0170 5551234",
        "I am in Python now, 0170 5551234",
        "An error is raised in Parser, 0170 5551234",
        "I was born in March, 0170 5551234",
        "The main office is at 0170 5551234",
    ],
)
def test_ordinary_words_beside_a_finding_stay(text: str) -> None:
    assert left(text, "0170 5551234", "PHONE", street=False) == text.replace("0170 5551234", "")


@pytest.mark.parametrize(
    ("field", "kept"),
    [
        ("Employer: Blue Kettle and Sons GmbH", "Employer: "),
        ("Ort: Bad Tölz", "Ort: "),
        ('{"zip": "10115", "city": "Ulm"', '{"zip": "", "city": ""'),
        ("Hausnummer: 12 b", "Hausnummer: "),
        ("PLZ: 10115", "PLZ: "),
        # Nobody's: code, gaps of a form, prose.
        ("city: String", "city: String"),
        ("company: Column(Text)", "company: Column(Text)"),
        ("cap = 5000", "cap = 5000"),
        ("Company: [Your Company]", "Company: [Your Company]"),
        ("City: unknown", "City: unknown"),
        ("in a city: Paris or so", "in a city: Paris or so"),
    ],
)
def test_fields_of_a_form_go_with_a_finding(field: str, kept: str) -> None:
    text = f"{field}\nTel: 0170 5551234"
    assert left(text, "0170 5551234", "PHONE", street=False) == f"{kept}\nTel: "


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("I met Bob Carter in town", "I met  in town"),
        ("we, Ilka and Bob Carter, met", "we, Ilka and , met"),
        ("1. Bob Carter", "1. "),
        ("It is so. Does Carter lie", "It is so. Does  lie"),
        ("I met Uncle Carter", "I met Uncle "),
        ("our Manager Carter", "our Manager "),
        ("mit meiner Nachbarin Carter", "mit meiner Nachbarin "),
    ],
)
def test_a_first_name_goes_with_a_name(text: str, kept: str) -> None:
    assert left(text, "Carter", "PERSON", street=False) == kept


def test_what_joins_two_findings_goes_with_them() -> None:
    text = "at Ring Road and Mill Lane now"
    spans = [Span(3, 12, "LOCATION"), Span(17, 26, "ADDRESS")]
    linked = list(linked_values(text, spans, streets=set(), bounds=(0, len(text))))
    assert Span(3, 26, "ADDRESS") in linked


def test_nothing_is_read_outside_the_bounds() -> None:
    text = "The Blue Kettle office is at 12 Main Street"
    span = Span(text.index(STREET), len(text), "ADDRESS")
    for begin in range(span.start + 1):
        for each in linked_values(text, [span], streets={span}, bounds=(begin, len(text))):
            assert each.start >= begin


def test_redaction_says_by_which_rule() -> None:
    gate = Gate(policy="redact")
    text = "The Blue Kettle office is at 12 Main Street, Springfield."
    verdict = gate.decide(text)
    assert verdict.decision is Decision.REDACTED
    assert verdict.redacted_text == "The <ORGANIZATION> office is at <ADDRESS>."
    assert "belongs to a finding" in {reason.rule for reason in verdict.reasons}
    # By itself it may leave, as before.
    assert gate.decide("The Blue Kettle office is closed.").decision is Decision.CLEAR


@pytest.mark.parametrize(
    "piece", ["A ", "1 ", "\n", "and ", "A\n", "12 Main Street\n", "Mr. A ", "a"]
)
def test_time_does_not_grow_faster_than_the_text(piece: str) -> None:
    text = (piece * 20_000)[:200_000] + "\n" + STREET
    places = range(0, len(text), 2_000)
    spans = [Span(start, min(start + 9, len(text)), "ADDRESS") for start in places]
    begun = time.process_time()
    for _ in linked_values(text, spans, streets={*spans}, bounds=(0, len(text))):
        pass
    assert time.process_time() - begun < 1.0


KETTLE = "The Blue Kettle office is at 12 Main Street, Springfield."


@pytest.mark.parametrize("allow", [{"values": ["blue kettle"]}, {"patterns": ["Blue .*"]}])
def test_what_an_allow_list_names_belongs_to_no_finding(allow: dict[str, list[str]]) -> None:
    verdict = Gate(policy="redact", allow=allow).decide(KETTLE)
    assert verdict.redacted_text == "The Blue Kettle office is at <ADDRESS>."
    assert verdict.labels == ("ADDRESS",)


def test_under_secrets_names_stay_beside_a_secret() -> None:
    gate = Gate(policy="redact", profile="secrets")
    verdict = gate.decide("Mr. Varga has the card 4111 1111 1111 1111, all call me Ilka")
    assert verdict.redacted_text == "Mr. Varga has the card <CARD>, all call me Ilka"


@pytest.mark.parametrize(
    ("action", "firm"),
    [("clear", "Blue Kettle"), ("redact", "<ORGANIZATION>"), ("local", "<ORGANIZATION>")],
)
def test_a_table_of_actions_says_what_stays_with_a_finding(action: str, firm: str) -> None:
    table = {"ADDRESS": "redact", "LOCATION": "redact", "ORGANIZATION": action}
    verdict = Gate(policy="labels", actions=table).decide(KETTLE)
    assert verdict.decision is Decision.REDACTED
    assert verdict.redacted_text == f"The {firm} office is at <ADDRESS>."


def test_nothing_belongs_to_a_finding_that_may_leave() -> None:
    table = {"PHONE": "clear", "EMAIL": "redact", "ORGANIZATION": "redact"}
    text = "joe@example.org, " + "x " * 150 + "the address of Blue Kettle is 0170 5551234"
    verdict = Gate(policy="labels", actions=table).decide(text)
    assert verdict.redacted_text == text.replace("joe@example.org", "<EMAIL>")


@pytest.mark.parametrize(
    "above",
    [
        "# Contact",
        "Shipping Address",
        "Lieferadresse",
        "Best Regards",
        "Viele Grüße",
        "```",
        "---",
        "}",
        "x = Parser()",
        "1. Buy Milk",
        "- Buy Milk",
        "Translate Into French",
        "Erkläre Quicksort",
        "Hola",
        "请把我的所有包裹寄到以下的地址谢谢",
        "A" * 70,
    ],
)
def test_what_names_nobody_above_an_address_stays(above: str) -> None:
    assert left(f"{above}\n12 Main Street") == f"{above}\n"


@pytest.mark.parametrize("above", ["Ma Long", "Mia Rossi", "Can Arslan", "田中太郎", "Bar 1. FC"])
def test_names_above_an_address_go(above: str) -> None:
    assert not left(f"{above}\n12 Main Street")
    assert left(f"# {above}\n# 12 Main Street") == "# "


@pytest.mark.parametrize(
    "before", ["It was sold in 2019 at ", "I have 2 cats in ", "from 3 pm on "]
)
def test_numbers_of_something_else_stay_before_an_address(before: str) -> None:
    assert left(f"{before}12 Main Street") == before


@pytest.mark.parametrize("labels", [("PERSON", "PERSON"), ("EMAIL", "PHONE"), ("PERSON", "ID")])
def test_people_and_numbers_do_not_join(labels: tuple[str, str]) -> None:
    text = "Ilka Meier and Tibor Varga swap"
    spans = [Span(0, 10, labels[0]), Span(15, 26, labels[1])]
    assert not list(linked_values(text, spans, streets=set(), bounds=(0, len(text))))


@pytest.mark.parametrize("blank", ["\r\n", "\xa0\n", "\u3000\n", "\x0b\n"])
def test_lines_of_other_white_space_above_an_address_raise_no_error(blank: str) -> None:
    assert left(f"so it is\n{blank}12 Main Street") == f"so it is\n{blank}"


def test_a_letter_with_carriage_returns_is_read_as_any_other() -> None:
    text = "Tibor Varga\nBlue Kettle\n12 Main Street\nSpringfield\nIL 62701\n\nDear Ilka,\nit is"
    gate = Gate(policy="redact")
    assert gate.decide(text).redacted_text == "<ADDRESS>\n\nDear <PERSON>,\nit is"
    found = gate.decide(text.replace("\n", "\r\n")).redacted_text
    assert found == "<ADDRESS>\r\n\r\nDear <PERSON>,\r\nit is"
