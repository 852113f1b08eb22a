from __future__ import annotations

import pytest

from floe_plugins.gate.detectors.learned.domain import (
    comment_start,
    is_code,
    is_machine,
    language,
)
from floe_plugins.gate.detectors.learned.features import tokens


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("What is the best way to get from the airport to the town?", "en"),
        ("Wo finde ich die Anleitung für den Drucker?", "de"),
        ("Où est le mode d'emploi de l'imprimante ?", "fr"),
        ("¿Dónde está el manual de la impresora?", "es"),
        ("Dove si trova il manuale della stampante?", "it"),
        ("Waar is de handleiding van het apparaat en hoe werkt dat?", "nl"),
        ("プリンターの説明書はどこにありますか。", "ja"),
        ("Translate into German: the house is old and the door is red", "en"),
        ("Kowalczyk 4711", "en"),
    ],
)
def test_languages_are_told_by_their_function_words(text: str, code: str) -> None:
    assert language(tokens(text)[0]) == code


@pytest.mark.parametrize(
    "line",
    [
        "    elif count > 3:",
        "total = sum(values)",
        "if (a == b) { return; }",
        "import os.path",
        "SELECT name FROM users WHERE id = 4;",
        "items.forEach(x => print(x))",
        "}",
    ],
)
def test_lines_of_programs_look_like_code(line: str) -> None:
    assert is_code(line)


@pytest.mark.parametrize(
    "line",
    [
        "Please return the book (it is red) by Monday.",
        "For example, we import apples from Chile.",
        '"name": "Ingrid Solberg",',
        "Name: Ingrid Solberg",
        "Dear Ms. Solberg,",
        "He paid $5 for it; she paid nothing.",
    ],
)
def test_prose_and_data_do_not(line: str) -> None:
    assert not is_code(line)


def test_a_comment_is_told_from_the_code_before_it() -> None:
    assert "x = 1  # Ask her"[comment_start("x = 1  # Ask her") :] == "Ask her"
    assert comment_start("x = 1") == 5


@pytest.mark.parametrize(
    "word", ["9fceb02d0ae598", "3f2504e0-4f89-41d3", "my_value", "getName", "a.b.c", "eu-west-3"]
)
def test_words_for_machines(word: str) -> None:
    assert is_machine(word)


@pytest.mark.parametrize("word", ["Kowalczyk", "McGregor", "O'Brien", "Baden-Baden", "GmbH"])
def test_words_for_people(word: str) -> None:
    assert not is_machine(word)
