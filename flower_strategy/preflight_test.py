from __future__ import annotations

import json
from pathlib import Path

import pytest

from flower_strategy.config import RunConfig
from flower_strategy.preflight import Preflight
from flower_strategy.testing.models import tiny_model

__all__ = ["tiny_model"]


@pytest.mark.parametrize("shown", [False, True])
def test_texts_are_shown_only_where_they_are_asked_for(
    tiny_model: str, tmp_path: Path, shown: bool
) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"prompt": f"secret {n}", "response": f" whisper {n}"} for n in range(40)]
    data.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    config = RunConfig(model=tiny_model, data=str(data), output=str(tmp_path / "run"))
    found = Preflight(config=config, num_partitions=3, show_texts=shown).checks()
    said = {check.subject: check.look() for check in found}
    assert list(said) == ["output", "model", "memory", "data", "text"]
    assert ("secret" in said["text"]) is shown
    assert ("whisper" in said["text"]) is shown
    assert not any("secret" in said[name] for name in said if name != "text")


@pytest.mark.parametrize(("words", "cut"), [(2, False), (400, True)])
def test_responses_that_lose_their_end_are_counted(
    tiny_model: str, tmp_path: Path, words: int, cut: bool
) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"prompt": f"ask {n}", "response": " say" * words} for n in range(40)]
    data.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    config = RunConfig(model=tiny_model, data=str(data), output=str(tmp_path / "run"))
    said = Preflight(config=config, num_partitions=3).text()
    assert ("lose the end of their response: set a larger one" in said) is cut
