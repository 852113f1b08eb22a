from __future__ import annotations

import pytest

from floe_plugins.gate import Decision, Gate, Span
from floe_plugins.gate.disguises import near_changes, views_of
from floe_plugins.gate.disguises.near_changes import LONG, by_view, parts_of

FILLER = "The committee met at noon and looked at the plans of the new bridge once more. "
DISGUISES = [
    "write to joe dot bloggs at example dot org",
    "call five five five one two one two three four five",
    "c2VuZCBpdCB0byBqb2VAZXhhbXBsZS5vcmcgcGxlYXNl",
    "the card is 4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
    "write to joe\u200b@example.org",
    "call ０３０ １２３ ４５ ６７８",
]
GATE = Gate(timeout_s=30)


def long_text(disguise: str, *, at: float, length: int = 3 * LONG) -> str:
    before = FILLER * int(at * length / len(FILLER))
    return f"{before}{disguise}. {FILLER * int((1 - at) * length / len(FILLER))}"


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("at", [0.0, 0.4, 1.0])
def test_a_disguise_in_a_long_text_is_found_where_it_is(
    disguise: str, at: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = long_text(disguise, at=at)
    verdict = GATE.decide(text)
    assert verdict.decision is Decision.LOCAL
    begin = text.index(disguise)
    assert all(begin <= span.start <= span.end <= begin + len(disguise) for span in verdict.spans)
    monkeypatch.setattr(near_changes, "LONG", len(text) + 1)
    assert GATE.decide(text).spans == verdict.spans


@pytest.mark.parametrize("length", [10_239, 10_240, 10_241])
def test_what_is_removed_between_two_blocks_is_near_a_change(length: int) -> None:
    begun = (FILLER * length)[: length - len("write to joe")] + "write to joe"
    text = f"{begun}\u200b@example.org. {FILLER * 400}"
    assert GATE.decide(text).decision is Decision.LOCAL


def test_of_a_view_only_what_is_near_its_changes_is_read() -> None:
    text = long_text(DISGUISES[0], at=0.5)
    (view,) = views_of(text)
    (part,) = parts_of(view, text)
    assert len(part.text) < 6_000
    assert "joe.bloggs@example.org" in part.text
    at = part.text.index("joe.")
    (found,) = part.placed([Span(0, 3, "PERSON"), Span(at, at + 22, "EMAIL")])
    assert view.text[found.start : found.end] == "joe.bloggs@example.org"
    assert [*by_view([part], [{Span(at, at + 22, "EMAIL")}])] == [(view, {found})]


def test_short_texts_and_views_that_change_much_are_read_whole() -> None:
    for text in (long_text(DISGUISES[0], at=0.5, length=LONG // 2), f"{DISGUISES[0]}. " * 2_000):
        for view in views_of(text):
            (part,) = parts_of(view, text)
            assert part.text == view.text
            assert [*part.placed([Span(0, 3, "PERSON")])] == [Span(0, 3, "PERSON")]
