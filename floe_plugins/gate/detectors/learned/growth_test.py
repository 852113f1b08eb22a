from __future__ import annotations

from floe_plugins.gate.detectors.learned.domain import language
from floe_plugins.gate.detectors.learned.features import tokens
from floe_plugins.gate.detectors.learned.growth import Growth, Whole

TEXT = "The committee met twice that year, and what it wrote about the river was read by few. " * 5


def test_a_text_that_stays_what_it_is() -> None:
    growth = Growth()
    assert language(tokens(TEXT)[0]) == "en"
    for end in range(20, len(TEXT), 3):
        assert growth.unchanged(TEXT[:end], TEXT[: end - 3]) == Whole("en", 3)


def test_a_language_that_changes_with_the_new_text() -> None:
    text = "Der Ausschuss tagte zweimal, und der Fluss"
    found = [Growth().unchanged(text[:end], text[: end - 1]) for end in range(2, len(text) + 1)]
    assert None in found
    assert found[-1] is not None
    assert found[-1].language == "de"


def test_a_use_of_capitals_that_changes_with_the_new_text() -> None:
    assert Growth().unchanged("the river and Anna", "the river and") is None
    assert Growth().unchanged("the river and anna", "the river and") is not None


def test_a_text_without_words_that_tell_a_language_may_be_any() -> None:
    assert Growth().unchanged("Xyz qrs", "Xyz") is None
    assert Growth().unchanged("", "") is None
