import json
import math
from pathlib import Path

import pytest

from floe_plugins.errors import ConfigError
from integration_tests.benchmarks.answers.journal import Journal

SETTINGS = {"slm": "one", "seed": 0}


def test_what_was_kept_is_known_to_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    first = Journal(path, settings=SETTINGS)
    assert first.known("llm", "a") is None
    first.keep("llm", "a", {"text": "1", "logprob": -math.inf})
    assert first.known("llm", "a") == {"text": "1", "logprob": -math.inf}
    again = Journal(path, settings=SETTINGS)
    assert again.known("llm", "a") == {"text": "1", "logprob": -math.inf}
    assert again.known("slm", "a") is None
    assert len(path.read_text().splitlines()) == 2
    assert json.loads(path.read_text().splitlines()[0]) == SETTINGS


def test_answers_of_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Journal(path, settings=SETTINGS)
    with pytest.raises(ConfigError, match="answers of another run: seed, slm differ"):
        Journal(path, settings={"slm": "two", "seed": 1})


def test_a_line_that_an_interruption_cut_off_is_answered_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Journal(path, settings=SETTINGS).keep("llm", "a", 1)
    with path.open("a") as file:
        file.write('\n["llm", "b"')
    cut = Journal(path, settings=SETTINGS)
    assert (cut.known("llm", "a"), cut.known("llm", "b")) == (1, None)
    cut.keep("llm", "b", 2)
    assert Journal(path, settings=SETTINGS).known("llm", "b") == 2
