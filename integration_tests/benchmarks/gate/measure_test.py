from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from floe_plugins.gate import Gate
from integration_tests.benchmarks.gate.__main__ import main
from integration_tests.benchmarks.gate.data import DataError, Prompt, read_prompts
from integration_tests.benchmarks.gate.measure import (
    figures_of,
    generated_prompts,
    kept_parts,
    seconds_per_mb,
)

PROMPTS = [
    Prompt("write to joe@example.org", ((9, 24, "EMAIL_ADDRESS"),)),
    Prompt("joe and ann", ((0, 3, "PERSON"), (8, 11, "PERSON"))),
    Prompt("no finding here", ((0, 2, "OTHER"),)),
    Prompt("how do I sort a list?", ()),
    Prompt("x is a letter", ()),
]


def find(text: str) -> list[tuple[int, int]] | None:
    """Find an address by its last character, "joe" wholly, and hold "x" back as a whole."""
    if text.startswith("x "):
        return None
    if "joe@" in text:
        return [(text.index("org") + 2, len(text))]
    return [(0, 3)] if text.startswith("joe") else []


def test_shares_and_times() -> None:
    result = figures_of(find, PROMPTS)
    assert result["prompt_recall"] == pytest.approx(2 / 3)
    assert result["false_alarm_rate"] == 0.5
    assert result["recall"] == {"EMAIL_ADDRESS": 1.0, "OTHER": 0.0, "PERSON": 0.5}
    # Precision 2/3, recall 2/3.
    assert result["f2"] == pytest.approx(2 / 3)
    assert 0 < result["p50_ms"] <= result["p99_ms"]
    assert seconds_per_mb(find, PROMPTS) > 0


def test_a_share_of_nothing_is_none() -> None:
    result = figures_of(find, PROMPTS[:1])
    assert result["false_alarm_rate"] is None
    assert figures_of(find, PROMPTS[3:])["prompt_recall"] is None


def test_data_of_other_makers_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(
        '{"text": "Ann", "spans": [{"type": "PERSON", "start": 0, "end": 3}]}\n\n'
        '{"source_text": "Bob", "privacy_mask": [{"label": "NAME", "start": 0, "end": 3}]}\n'
        '{"prompt": "Cid", "entities": [[0, 3, "NAME"]]}\n'
        '{"text": "nothing", "spans": []}\n',
        encoding="utf-8",
    )
    assert read_prompts(path) == [
        Prompt("Ann", ((0, 3, "PERSON"),)),
        Prompt("Bob", ((0, 3, "NAME"),)),
        Prompt("Cid", ((0, 3, "NAME"),)),
        Prompt("nothing", ()),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no prompts"),
        ("[1]", "Line 1"),
        ('{"spans": []}', "Line 1"),
        ('{"text": "a", "spans": [{"type": "X", "start": 0, "end": 9}]}', "not within the text"),
        ('{"text": 1, "spans": []}', "its text is no string"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_prompts(path)


def test_prompts_are_made_where_there_are_none() -> None:
    prompts = generated_prompts(3)
    assert prompts == generated_prompts(3) != generated_prompts(4)
    private = [prompt for prompt in prompts if prompt.spans]
    assert len(private) == len(prompts) - len(private) > 100
    for prompt in private:
        for start, end, label in prompt.spans:
            assert prompt.text[start:end].strip()
            assert label.isupper()


def test_it_prints_one_json_object(
    tmp_path: Path, values_of: Callable[..., Any], error_of: Callable[..., str]
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(
        '{"text": "write to joe@example.org", "spans": [{"type": "EMAIL", "start": 9, "end": 24}]}'
        '\n{"text": "how do I sort a list?", "spans": []}\n',
        encoding="utf-8",
    )
    benign = tmp_path / "benign.jsonl"
    benign.write_text(
        '{"text": "Who was Ada?", "source": "talk"}\n{"text": "Mail a@b.org", "source": "talk"}\n',
        encoding="utf-8",
    )
    result = values_of(main, "--data", str(path), "--no-peers", "--benign", str(benign))
    personal = result["profiles"]["personal"]
    assert personal["held_back"] == {"talk": 0.5, "all": 0.5}
    assert (personal["kept_parts"], personal["prompt_recall"]) == (0.0, 1.0)
    assert set(result["profiles"]) == {"secrets", "personal", "strict"}
    assert {"recall", "f2", "p50_ms", "p99_ms", "seconds_per_mb", "machine"} <= set(result)
    assert (result["prompt_recall"], result["false_alarm_rate"], result["peers"]) == (1.0, 0.0, {})
    assert result["data"] == "data.jsonl"
    assert (personal["exposing_recall"], personal["exposing"]) == (1.0, 1)
    by_default, strict, *_ = result["remarks"]
    assert "50.0 % of ordinary prompts are held back, and 1.000 of 1 prompts" in by_default
    assert "recall of private prompts 1.000 at 0.0 % false alarms" in strict
    assert "cannot be read" in error_of(main, "--data", str(tmp_path / "none"))


def test_a_piece_of_a_value_that_is_kept_counts() -> None:
    prompts = [
        Prompt("mail joe@example.org, tower seven", ((5, 20, "EMAIL"), (22, 27, "OTHER"))),
        Prompt("mail joe@example.org", ((5, 20, "EMAIL"),)),
    ]
    gate = Gate(detectors=["email"], policy="redact")
    assert kept_parts(gate, prompts) == 0.5
    assert kept_parts(gate, prompts[:0]) is None
