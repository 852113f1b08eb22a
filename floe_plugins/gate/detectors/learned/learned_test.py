from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from floe_plugins.gate.detectors.learned import LearnedDetector
from floe_plugins.gate.detectors.learned.detector import Thresholds
from floe_plugins.gate.detectors.learned.features import ROWS, Lexicon, tokens
from floe_plugins.gate.detectors.learned.model import CLASSES, Model

DETECTOR = LearnedDetector()


def found(text: str) -> list[tuple[str, str]]:
    return [(text[span.start : span.end], span.label) for span in DETECTOR.detect(text)]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Please tell Natalia Kowalczyk that the meeting is on Monday.", "Natalia Kowalczyk"),
        ("please tell natalia kowalczyk that the meeting is on monday", "natalia kowalczyk"),
        ("Dear Mr. Abernathy, thank you for your letter.", "Abernathy"),
        ("My doctor, Dr. Yilmaz, is on holiday.", "Yilmaz"),
        ("Ich heiße Jürgen Müller und wohne in Köln.", "Jürgen Müller"),
    ],
)
def test_people_are_found(text: str, name: str) -> None:
    assert any(name in stretch and label == "PERSON" for stretch, label in found(text))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("She moved to Gothenburg last year.", "Gothenburg"),
        ("we live in ljubljana", "ljubljana"),
        ("My brother works in Kenya.", "Kenya"),
    ],
)
def test_places_are_found(text: str, place: str) -> None:
    assert (place, "LOCATION") in found(text)


def test_organizations_and_addresses_are_found() -> None:
    labels = {
        label for _, label in found("Send the invoice to Hartmann GmbH, 12 Elm Street, Leeds.")
    }
    assert {"ORGANIZATION", "ADDRESS"} <= labels


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n\t",
        "How do I reset my password?",
        "how do i reset my password",
        "What is the capital of France?",
        "Write a Python function that returns the largest number of a list.",
        "Explain the theory of relativity in simple terms.",
        "What will the weather be like in May?",
        "A train travels 120 miles in 3 hours. What is its average speed?",
        "My name is <PERSON> and I live in <LOCATION>.",
        "Translate this sentence into German.",
        "for i in range(10):\n    print(i)",
        "God gave rock and roll to the world.",
        "... --- ... 1 2 3",
    ],
)
def test_ordinary_texts_are_let_be(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "elif total < 9:",
        "min(left, right)",
        "id 7d44a2be-93c1-4f0e-8a57-0c1f2e3d4b5a",
        "9fceb02d0ae598e95dc970b74767f19372d61af8",
        "updated_at 1767225600",
        "Is IEC 61508 older than ISO 9001?",
        "Between March and August it rains less than in October.",
        "What's the 12th Lucas number?",
        "Who's hungry? That's a cliché.",
        "Schreibe eine Kurzgeschichte über den Frühling.",
        "Was ist der Unterschied zwischen einem Prozess und einem Thread?",
        "¿Hay un método más rápido? Explícalo, por favor.",
        "Aimez-vous lire ? Quel livre me conseillez-vous ?",
        "Elenca i vantaggi di una lista rispetto a un dizionario.",
    ],
)
def test_it_is_silent_where_it_was_not_trained_to_find(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("Unlike the Lindgren album, it is loud.", ("Lindgren", "PERSON")),
        ("I'm in GOTHENBURG for a week.", ("GOTHENBURG", "LOCATION")),
        ("I work for Rapid Harvest Systems.", ("Rapid Harvest Systems", "ORGANIZATION")),
        ("Ship it to 48 Larkspur Avenue, please.", ("48 Larkspur Avenue", "ADDRESS")),
        ("# Ingrid Solberg wrote this function()", ("Ingrid Solberg", "PERSON")),
    ],
)
def test_names_are_found_whole(text: str, finding: tuple[str, str]) -> None:
    assert finding in found(text)


def test_findings_have_scores_and_thresholds_choose() -> None:
    text = "Please tell Natalia Kowalczyk."
    (finding,) = DETECTOR.detect(text)
    assert 0.2 <= finding.score <= 1
    never = LearnedDetector(thresholds=Thresholds(prose=1.1))
    assert never.detect(text) == []


def test_tokens_lie_one_after_the_other() -> None:
    text = "O'Brien paid $12.50,\n\nin 東京 (Tokyo)_x."
    words, starts = tokens(text)
    assert "".join(words) == text.replace(" ", "")
    assert [
        text[start : start + len(word)] for word, start in zip(words, starts, strict=True)
    ] == words


def test_ascii_has_the_same_tokens_as_other_texts() -> None:
    text = "".join(f"{first}{second}" for first in map(chr, range(128)) for second in " aZ9_.\n")
    assert tokens(text)[0] == tokens(text + " é")[0][:-1]


def test_a_text_in_pieces_is_scored_as_the_whole() -> None:
    sentence = "Please ask Natalia Kowalczyk about it. "
    spans = DETECTOR.detect(sentence * 1200)
    assert len(spans) == 1200
    assert {(span.start % len(sentence), span.label) for span in spans} == {(11, "PERSON")}


def test_the_model_forgets_words_and_goes_on() -> None:
    words = " ".join(f"zq{number:x}x" for number in range(0x10000, 0x1A000))
    before = found("Ask Natalia Kowalczyk.")
    DETECTOR.detect(words)
    DETECTOR.detect(words.upper())
    assert found("Ask Natalia Kowalczyk.") == before


def test_a_file_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"missing\.npz"):
        LearnedDetector(tmp_path / "missing.npz").load()
    other = tmp_path / "other.npz"
    np.savez(other, weights=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz does not fit"):
        LearnedDetector(other).load()


def test_a_model_is_written_and_read(tmp_path: Path) -> None:
    lexicon = Lexicon.of({"one": 1, "two": 2})
    weights = np.zeros((ROWS, len(CLASSES)), np.int8)
    weights[:, 1] = 3
    scale, intercept = np.full(5, 0.5, np.float32), np.arange(5, dtype=np.float32)
    model = Model(weights, scale, intercept, lexicon)
    model.save(tmp_path / "model.npz")
    read = Model.load(tmp_path / "model.npz")
    assert read.lexicon.get("two") == 2
    assert read.lexicon.get("three") == 0
    assert np.array_equal(read.scores(["one", "two"]), model.scores(["one", "two"]))
    # Every row for a word adds 3 steps of 0.5.
    rows = (model.scores(["one"])[0, 1] - 1) / 1.5
    assert rows == round(rows) > 20
