"""`floe-llm doctor train` on runs that would start and on runs that would not."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from flower_strategy import preflight
from flower_strategy.commands import doctor_train
from flower_strategy.testing.models import tiny_model

__all__ = ["tiny_model"]

GOOD = [{"prompt": f"say {number}", "response": f" {number}"} for number in range(40)]


def lines_of(app: Path, *arguments: str) -> dict[str, tuple[str, str]]:
    parser = argparse.ArgumentParser()
    doctor_train.add_arguments(parser)
    found = doctor_train.lines(parser.parse_args([str(app), *arguments]))
    return {line.check: (str(line.status), line.found) for line in found}


@pytest.fixture
def keys(tiny_model: str, tmp_path: Path) -> dict[str, Any]:
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in GOOD), "utf-8")
    return {"model": tiny_model, "data": str(data), "output": str(tmp_path / "run")}


def written(keys: dict[str, Any]) -> str:
    return " ".join(f"{key}={json.dumps(value)}" for key, value in keys.items())


def test_a_run_that_would_start_is_green_throughout(keys: dict[str, Any], tmp_path: Path) -> None:
    found = lines_of(tmp_path, "--run-config", written(keys))
    assert list(found) == ["keys", "output", "model", "memory", "data", "text"]
    assert {status for status, _ in found.values()} == {"green"}
    assert "say 0" in found["text"][1]
    assert not (tmp_path / "run").exists()


def test_keys_are_those_of_the_app_and_above_them_those_of_the_command_line(
    keys: dict[str, Any], tmp_path: Path
) -> None:
    own = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
    (tmp_path / "pyproject.toml").write_text(
        f"[tool.flwr.app.config]\n{own}\nrounds = 7\nbatch-size = 3\n", "utf-8"
    )
    said = lines_of(tmp_path, "--run-config", "rounds=9")["keys"][1]
    assert "rounds=9" in said
    assert "batch-size=3" in said
    file = tmp_path / "more.toml"
    file.write_text("rounds = 11\n", "utf-8")
    assert "rounds=11" in lines_of(tmp_path, "--run-config", str(file))["keys"][1]


@pytest.mark.parametrize(
    ("changed", "subject", "said"),
    [
        ({"round": 5}, "keys", "Unknown run configuration key 'round'; did you mean 'rounds'?"),
        ({"rounds": "five"}, "keys", "rounds='five' is not accepted"),
        ({"model": "no/such/folder"}, "model", "no/such/folder"),
        ({"max-length": 4096}, "model", "max-length=4096 is more than the 256 positions"),
        ({"data": "absent.jsonl"}, "data", "'absent.jsonl' does not exist: tried /"),
        ({"output": "pyproject.toml/run"}, "output", "cannot be written"),
    ],
)
def test_what_is_wrong_is_one_red_line(
    keys: dict[str, Any], tmp_path: Path, changed: dict[str, Any], subject: str, said: str
) -> None:
    found = lines_of(tmp_path, "--run-config", written({**keys, **changed}))
    red = {check: line for check, (status, line) in found.items() if status == "red"}
    assert len(red) == 1
    (sentence,) = red.values()
    assert said in sentence
    if subject != "model":  # the first check that needs the model says what it lacks
        assert list(red) == [subject]


def test_too_little_memory_is_said_before_anything_is_loaded(
    keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "available_memory", lambda: 1000)
    status, said = lines_of(tmp_path, "--run-config", written(keys))["memory"]
    assert status == "red"
    assert "choose a smaller model, dtype='bfloat16' or quantization" in said


@pytest.mark.parametrize("text", ["rounds=five", "rounds=", "rounds", "model='a"])
def test_what_is_no_toml_is_one_sentence(tmp_path: Path, text: str) -> None:
    status, said = lines_of(tmp_path, "--run-config", text)["keys"]
    assert status == "red"
    assert said.startswith(f"--run-config {text!r} cannot be read")
