from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from floe_plugins.gate import Decision, Gate, Message, Span
from floe_plugins.gate.conversation import Conversation
from floe_plugins.testing.gates import STRUCTURED

GATE = Gate(detectors=STRUCTURED, timeout_s=30)
MAIL = "joe.bloggs@example.org"


def said(*texts: str) -> list[Message]:
    return [Message(text) for text in texts]


def test_messages_are_scanned_one_by_one_too() -> None:
    verdict = GATE.decide([Message("be kind", "system"), Message(f"write to {MAIL}, please")])
    assert verdict.decision is Decision.LOCAL
    assert verdict.messages == ((), (Span(9, 9 + len(MAIL), "EMAIL"),))
    assert verdict.spans == (Span(17, 17 + len(MAIL), "EMAIL"),)


@pytest.mark.parametrize(
    "texts",
    [
        ("my card is 4111 1111", "1111 1111"),
        ("my card is 4111 11", "11 1111 1111"),
        ("mail joe.blo", "ggs@example.org now"),
        ("mail joe.bloggs@", "example.org now"),
        ("mail joe.bloggs at", " example dot org now"),
        tuple("4111111111111111"),
        ("four one one one one one one one ", "one one one one one one one one"),
        ("am9lLmJsb2dnc0", "BleGFtcGxlLm9yZw=="),
    ],
)
def test_a_value_split_over_messages_is_found_in_each(texts: tuple[str, ...]) -> None:
    verdict = GATE.decide(said("Hello: ", *texts))
    assert verdict.decision is Decision.LOCAL
    assert verdict.messages[0] == ()
    assert all(verdict.messages[1:])


def test_a_value_that_another_role_interrupts_is_found() -> None:
    messages = [
        Message("my card is 4111 1111"),
        Message("Please go on.", "assistant"),
        Message("1111 1111"),
    ]
    verdict = GATE.decide(messages)
    assert verdict.decision is Decision.LOCAL
    assert [bool(spans) for spans in verdict.messages] == [True, False, True]


@pytest.mark.parametrize("invisible", ["", "\u200b"])
def test_a_value_behind_a_long_message_is_placed_where_it_stands(invisible: str) -> None:
    """The view of a seam leaves out the middle of messages, even if it is rewritten further."""
    gate = Gate(detectors=STRUCTURED, policy="redact", timeout_s=30)
    begun = "and on and on " * 20 + invisible + "my card is "
    verdict = gate.decide(said(begun + "4111 1111", "1111 1111, please"))
    assert verdict.decision is Decision.REDACTED
    assert verdict.redacted_messages == (f"{begun}<CARD>", "<CARD>, please")


def test_nothing_goes_on_from_what_stands_beside_the_conversation() -> None:
    aside = [Message("mail joe.blo", None), Message("ggs@example", None), Message(".org", None)]
    assert GATE.decide(aside).decision is Decision.CLEAR


@pytest.mark.parametrize(
    ("said_last", "beside"),
    [
        ("The sum is 4111 1111", "1111 1111"),
        ("My SSN, you ask?", "536221234"),
        ("Call me tomorrow", "2125550143"),
        ("It is am9lLmJsb2dnc0", "BleGFtcGxlLm9yZw=="),
        ("four one one one one one one one ", "one one one one one one one one"),
    ],
)
def test_what_stands_beside_is_not_joined_to_what_is_said(said_last: str, beside: str) -> None:
    assert GATE.decide(said(said_last, beside)).decision is Decision.LOCAL
    apart = [Message(said_last), Message(beside, None), Message(beside, None)]
    assert GATE.decide(apart).decision is Decision.CLEAR


def test_what_stands_beside_is_scanned_by_itself() -> None:
    verdict = GATE.decide([Message("Hello"), Message(f"to {MAIL}", None)])
    assert verdict.messages == ((), (Span(3, 3 + len(MAIL), "EMAIL"),))


def test_an_ordinary_conversation_is_clear() -> None:
    turns = itertools.cycle(["user", "assistant"])
    texts = ["What is 2400 / 200?", "It is 12.", "And 4 * 23?", "92.", "Thanks!" * 100] * 5
    assert GATE.decide([Message(text, next(turns)) for text in texts]).decision is Decision.CLEAR


def test_redaction_goes_message_by_message() -> None:
    gate = Gate(detectors=STRUCTURED, policy="redact", timeout_s=30)
    verdict = gate.decide(said("mail joe.blo", "ggs@example.org or ann@example.com", "bye"))
    assert verdict.decision is Decision.REDACTED
    assert verdict.redacted_messages == ("mail <EMAIL>", "<EMAIL> or <EMAIL>", "bye")
    assert verdict.redacted_text == "mail <EMAIL>\n<EMAIL> or <EMAIL>\nbye"
    assert "joe" not in repr(verdict)


@pytest.mark.parametrize("value", [[1, 2], ["text"], [Message(7)], {"a": 1}])  # type: ignore[arg-type]
def test_what_are_no_messages_is_local(value: object) -> None:
    verdict = GATE.decide(value)  # type: ignore[arg-type]
    assert verdict.decision is Decision.LOCAL
    assert not verdict.scanned_all


def test_no_messages_are_clear() -> None:
    assert GATE.decide([]).decision is Decision.CLEAR


@given(st.lists(st.text(max_size=300), max_size=6), st.data())
def test_spans_are_split_where_messages_meet(texts: list[str], data: st.DataObject) -> None:
    roles = st.sampled_from(["user", "assistant", None])
    conversation = Conversation([Message(text, data.draw(roles)) for text in texts])
    assert "".join(conversation.text.split("\n")) == "".join("".join(texts).split("\n"))
    assert conversation.size == sum(map(len, texts))
    assert all(
        conversation.text[at : at + len(text)] == text
        for text, at in zip(texts, conversation._starts, strict=True)
    )
    size = len(conversation.text)
    if size:
        start = data.draw(st.integers(0, size - 1))
        end = data.draw(st.integers(start + 1, size))
        parts = [
            text[span.start : span.end]
            for text, spans in zip(texts, conversation.split([Span(start, end, "X")]), strict=True)
            for span in spans
        ]
        assert "".join(parts) == "".join(
            text[max(start - at, 0) : max(end - at, 0)]
            for text, at in zip(texts, conversation._starts, strict=True)
        )
    for seam in conversation.seams():
        for place in range(len(seam.text)):
            begin, stop = seam.original(place, place + 1)
            assert 0 <= begin < stop <= size


class Naming:
    """A detector that takes every long word for a name, or for a thing."""

    name = "naming"

    def __init__(self, *labels: str) -> None:
        self.labels = labels

    def detect(self, text: str) -> list[Span]:
        long = max(text.split(), key=len, default="")
        begin = text.find(long)
        return [Span(begin, begin + len(long), label) for label in self.labels if len(long) > 12]


@pytest.mark.parametrize(
    "messages", [said("4 1 1 1 1 1 1 1 1 1 1 1 1 1"), said("many-", "letters-long")]
)
def test_what_is_put_together_is_searched_for_values_but_not_for_names(
    messages: list[Message],
) -> None:
    assert Gate(detectors=[Naming("PERSON")]).decide(messages).decision is Decision.CLEAR
    both = Gate(detectors=[Naming("PERSON", "THING")]).decide(messages)
    assert both.labels == ("THING",)
    assert Gate(detectors=[Naming("PERSON")]).decide("many-letters-long").labels == ("PERSON",)
