from __future__ import annotations

import pytest

from floe_plugins.errors import ConfigError
from floe_plugins.gate import Decision, Gate, Message, Span
from floe_plugins.gate.profiles import kinds


class Given:
    """A detector of words with given labels."""

    name = "given"
    labels = ("PERSON", "LOCATION", "ADDRESS", "EMAIL", "API_KEY", "HEALTH", "IP_ADDRESS", "NEW")

    def __init__(self, score: float = 1.0, **words: str) -> None:
        self._words = words
        self._score = score

    def detect(self, text: str) -> list[Span]:
        return [
            Span(text.index(word), text.index(word) + len(word), label, self._score)
            for label, word in self._words.items()
            if word in text
        ]


@pytest.mark.parametrize(
    "text",
    [
        "My wife Quillon is late.",
        "My neighbour's name is Quillon.",
        "my name is Quillon",
        "The patient, Quillon, came in on Monday.",
        "Quillon is my boss.",
        "Ask Quillon, my brother.",
        "See you.\nBest regards,\nQuillon",
        "Dear Mr. Quillon,\nthank you.",
        "Hi Quillon,\nhere is the file.",
        "- Name: Quillon",
        "Mein Kollege Herr Quillon kommt.",
        "Sehr geehrte Frau Quillon,",
        "Viele Grüße\nQuillon",
        "Ma voisine Quillon crie.",
        "Je m'appelle Quillon.",
        "Mi hermana Quillon llora.",
        "Me llamo Quillon.",
        "Mia moglie Quillon dorme.",
        "Cordiali saluti,\nQuillon",
    ],
)
def test_a_person_of_the_users_life_is_private(text: str) -> None:
    verdict = Gate(detectors=[Given(PERSON="Quillon")]).decide(text)
    assert verdict.decision is Decision.LOCAL
    assert verdict.why == "PERSON person of the user's life; profile personal"


@pytest.mark.parametrize(
    "text",
    [
        "Who was Quillon?",
        "Mr. Quillon has 12 cows, and his brother has 3.",
        "Her brother Quillon buys 4 books.",
        "Im Jahr 1900 starb Quillon.",
        "Since this is Quillon's third, he pays more.",
        "Write a poem about Quillon.",
    ],
)
def test_a_name_alone_is_not(text: str) -> None:
    verdict = Gate(detectors=[Given(PERSON="Quillon")]).decide(text)
    assert verdict.decision is Decision.CLEAR
    assert verdict.why == "PERSON alone; profile personal"
    assert Gate(detectors=[Given(PERSON="Quillon")], profile="strict").decide(text).why == (
        "PERSON any finding; profile strict"
    )


class Unsure:
    """A detector that takes every "Quillon" for a person, with little certainty."""

    name = "unsure"
    labels = ("PERSON",)

    def detect(self, text: str) -> list[Span]:
        at = text.find("Quillon")
        return [Span(at, at + len("Quillon"), "PERSON", 0.4)] if at >= 0 else []


def test_strict_lets_go_what_no_detector_is_sure_of_unless_it_stands_beside_something() -> None:
    gate = Gate(detectors=[Unsure(), "email"], profile="strict", timeout_s=30)
    alone = gate.decide("Write a poem about Quillon.")
    assert alone.decision is Decision.CLEAR
    assert alone.why == "PERSON unsure and alone; profile strict"
    beside = gate.decide("Write to q@quill.org about Quillon.")
    assert {span.label for span in beside.spans} == {"PERSON", "EMAIL"}
    assert beside.decision is Decision.LOCAL
    # Of the user's life, so private under `personal` too.
    assert gate.decide("My wife Quillon is here.").decision is Decision.LOCAL


def test_a_threshold_says_which_findings_count_under_strict() -> None:
    gate = Gate(detectors=[Unsure()], profile="strict", thresholds={"PERSON": 0.3}, timeout_s=30)
    assert gate.decide("Write a poem about Quillon.").decision is Decision.LOCAL


def test_what_is_private_takes_names_and_places_with_it() -> None:
    gate = Gate(
        detectors=[Given(PERSON="Quillon", LOCATION="Berlin", EMAIL="q@x.org")], policy="redact"
    )
    verdict = gate.decide("Quillon of Berlin has q@x.org")
    assert verdict.redacted_text == "<PERSON> of <LOCATION> has <EMAIL>"
    assert gate.decide("Quillon of Berlin").decision is Decision.CLEAR


@pytest.mark.parametrize(
    ("text", "word", "private"),
    [
        ("at 12 Quill Street now", "12 Quill Street", True),
        ("at Quillweg 12 now", "Quillweg", True),
        ("in Quillweg now", "Quillweg", False),
        ("code 90210", "90210", False),
        ("Red\n5", "Red\n5", False),
        ("Quillweg 12.5 km", "Quillweg", False),
    ],
)
def test_a_street_address_has_a_name_and_a_number(text: str, word: str, private: bool) -> None:
    span = Span(text.index(word), text.index(word) + len(word), "ADDRESS")
    assert (span in kinds(text, [span])) is private


def test_networks_of_ones_own_are_not_private() -> None:
    gate = Gate(detectors=["ip-address"])
    assert gate.decide("ping 192.168.0.7").decision is Decision.CLEAR
    assert gate.decide("ping 93.184.216.34").decision is Decision.LOCAL


def test_a_label_that_no_profile_knows_is_private() -> None:
    detector = Given(NEW="thing", API_KEY="key", HEALTH="ill")
    assert Gate(detectors=[detector]).decide("a thing").decision is Decision.LOCAL
    secrets = Gate(detectors=[detector], profile="secrets")
    assert secrets.decide("a thing, ill").decision is Decision.CLEAR
    assert secrets.decide("a key").why == "API_KEY secret; profile secrets"


def test_a_label_that_a_table_names_counts_under_any_profile() -> None:
    gate = Gate(
        detectors=[Given(LOCATION="Berlin")], policy="labels", actions={"LOCATION": "redact"}
    )
    assert gate.decide("in Berlin").redacted_text == "in <LOCATION>"


def test_what_may_leave_by_a_table_takes_nothing_with_it() -> None:
    detector = Given(PERSON="Quillon", EMAIL="q@x.org")
    gate = Gate(detectors=[detector], policy="labels", actions={"EMAIL": "clear"})
    assert gate.decide("Quillon has q@x.org").decision is Decision.CLEAR


def test_findings_below_a_threshold_do_not_count() -> None:
    unsure = Given(0.4, HEALTH="ill")
    assert Gate(detectors=[unsure]).decide("ill").decision is Decision.LOCAL
    gate = Gate(detectors=[unsure], thresholds={"HEALTH": 0.5})
    assert gate.decide("ill").spans == ()
    sure = Given(0.9, HEALTH="ill")
    sure.name = "sure"
    both = Gate(detectors=[unsure, sure], thresholds={"HEALTH": 0.5})
    assert both.decide("ill").decision is Decision.LOCAL
    assert not Gate(detectors=[Given(1.5, HEALTH="ill")]).decide("ill").scanned_all


ALLOW = {"values": ["help@acme.example", "Acme Ltd"], "domains": ["x.org"], "patterns": [r"T-\d+"]}


@pytest.mark.parametrize(
    ("text", "word", "decision"),
    [
        ("ask HELP@acme.example.", "HELP@acme.example", Decision.CLEAR),
        ("ask ahelp@acme.example.", "ahelp@acme.example", Decision.LOCAL),
        ("ask help@acme.example.net.", "help@acme.example.net", Decision.LOCAL),
        ("ask joe@mail.X.org", "joe@mail.X.org", Decision.CLEAR),
        ("ask joe@notx.org", "joe@notx.org", Decision.LOCAL),
        ("ticket T-123", "T-123", Decision.CLEAR),
        ("ticket T-123b", "T-123b", Decision.LOCAL),
        # A part of an allowed value is allowed.
        ("from Acme Ltd", "Acme", Decision.CLEAR),
    ],
)
def test_allow_lists_let_whole_values_leave(text: str, word: str, decision: Decision) -> None:
    gate = Gate(detectors=[Given(EMAIL=word)], profile="strict", allow=ALLOW)
    assert gate.decide(text).decision is decision


def test_roles_and_fields_are_judged_by_their_own_profiles() -> None:
    detectors = [Given(EMAIL="q@x.org", API_KEY="key1")]
    gate = Gate(detectors=detectors)
    assert gate.decide([Message("q@x.org", "system")]).decision is Decision.CLEAR
    assert gate.decide([Message("key1", "system")]).decision is Decision.LOCAL
    assert gate.decide([Message("q@x.org", None, "tools")]).decision is Decision.CLEAR
    assert gate.decide([Message("q@x.org", None, "metadata")]).decision is Decision.LOCAL
    own = Gate(detectors=detectors, roles={"system": "personal"}, fields={"metadata": "ignored"})
    assert own.decide([Message("q@x.org", "system")]).decision is Decision.LOCAL
    assert own.decide([Message("key1", None, "metadata")]).decision is Decision.CLEAR
    strict = Gate(detectors=detectors, profile="strict")
    assert strict.decide([Message("q@x.org", "system")]).decision is Decision.LOCAL


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"profile": "lenient"}, "accepted are secrets, personal, strict"),
        ({"allow": {"value": []}}, "accepted are values, domains, patterns"),
        ({"allow": {"values": "x"}}, "accepted is a list of texts"),
        ({"allow": {"values": [""]}}, "none of them empty"),
        ({"allow": {"domains": ["@x.org"]}}, "'@x.org'; accepted is a domain alone"),
        ({"allow": {"patterns": ["("]}}, "accepted are regular expressions"),
        ({"thresholds": {"EMAIL": 2}}, "numbers from 0 to 1"),
        ({"thresholds": {"EMIAL": 0.5}}, "'EMIAL'; the detectors give"),
        ({"thresholds": {"*": 0.5}}, "the label '\\*'; the detectors give"),
        ({"roles": {"system": "none"}}, "accepted are ignored, secrets, personal, strict"),
        ({"fields": ["tools"]}, "accepted is a table to profiles"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Gate(detectors=["email"], **options)  # type: ignore[arg-type]
