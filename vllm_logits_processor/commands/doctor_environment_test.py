"""`floe-llm doctor` as a command, and what it says of this machine."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from floe_plugins.commands import doctor as doctor_command
from floe_plugins.commands.doctor_lines import Line, Status
from floe_plugins.errors import FloeError
from floe_plugins.manager import PLUGINS_VARIABLE, forget_plugins
from vllm_logits_processor.commands import doctor_environment
from vllm_logits_processor.testing.served_expert import Served, lines_of, section

#: Replaced in most tests, since importing vLLM takes a while.
REAL_RUNNER = doctor_environment._runner


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    doctor_command.add_to(parser.add_subparsers())
    parsed = parser.parse_args(["doctor", *arguments])
    return int(parsed.run(parsed))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the runner, which imports vLLM; it has a test of its own."""
    monkeypatch.setattr(doctor_environment, "_runner", lambda: Line("runner", Status.GREEN, "V1"))


@pytest.mark.usefixtures("quick")
def test_the_command_prints_lines_and_exits_with_1_where_one_is_red(
    served: Served, pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "floe.json"
    file.write_text(json.dumps(section(served, pair)))
    assert run("--config", str(file), "--host", pair[0]) == 0
    out = capsys.readouterr().out
    assert "green    expert " in out
    assert " 0 red, " in out.splitlines()[-1]
    file.write_text(json.dumps({"floe": section(served, pair, router="oracle")}))
    assert run("--config", str(file)) == 1
    out = capsys.readouterr().out
    assert "red      router " in out
    assert "-> choose one of entropy" in out
    assert run("--config", str(file), "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert said["red"] == 1
    (line,) = [line for line in said["lines"] if line["status"] == "red"]
    assert line["check"] == "router"
    assert set(line) == {"check", "status", "found", "advice"}


@pytest.mark.usefixtures("quick")
def test_without_a_configuration_it_says_what_is_installed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run() == 0
    assert "--config FILE" in capsys.readouterr().out


def test_a_configuration_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "floe.json").write_text("{")
    with pytest.raises(FloeError, match="cannot be read as JSON"):
        run("--config", str(tmp_path / "floe.json"))


def test_a_torchvision_that_is_built_for_another_torch_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Importing vLLM fails like this beside it: torchvision looks for an operator of its own.
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("import torchvision")
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    line = REAL_RUNNER()
    assert line.status is Status.RED
    assert "torchvision::nms" in line.found
    assert line.advice.startswith("pip uninstall torchvision")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("check", "version", "status"),
    [
        ("vllm", "0.32.5", Status.GREEN),
        ("vllm", "0.33.0", Status.GREEN),
        ("vllm", "0.99", Status.RED),
        ("vllm", None, Status.UNKNOWN),
        ("flower", "1.35.0", Status.UNKNOWN),
    ],
)
def test_versions(
    monkeypatch: pytest.MonkeyPatch, check: str, version: str | None, status: Status
) -> None:
    monkeypatch.setattr(doctor_environment, "_first_installed", lambda *_: version)
    lines = {line.check: line for line in doctor_environment.environment_lines()}
    assert lines[check].status is status
    assert lines["runner"].status is (Status.UNKNOWN if version is None else Status.GREEN)
    assert (lines["vllm"].advice == "") == (status is Status.GREEN)


WITHOUT = """
import json, sys
sys.modules.update(dict.fromkeys(("torch", "vllm", "flwr")))
from vllm_logits_processor.commands import doctor, doctor_environment
there = doctor_environment._first_installed
doctor_environment._first_installed = (
    lambda *names: None if {"vllm", "flwr"} & set(names) else there(*names)
)
lines = doctor.diagnose(json.loads(sys.argv[1]), host=sys.argv[2])
print(json.dumps({line.check: line.status for line in lines}))
"""


def test_it_needs_neither_vllm_nor_flower_nor_torch(served: Served, pair: tuple[str, str]) -> None:
    values = json.dumps(section(served, pair))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, values, pair[0]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    statuses = json.loads(done.stdout.splitlines()[-1])
    absent = {"vllm", "flower", "runner"}
    assert {statuses[check] for check in absent} == {"unknown"}
    wanted = {
        "expert",
        "expert tokenizer",
        "expert K",
        "expert latency",
        "expert distance",
        "expert blocks",
        "gate",
        "tokenizers",
    }
    assert {statuses[check] for check in wanted} == {"green"}


def test_plugins_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "idle_plugin.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(PLUGINS_VARIABLE, "idle_plugin")
    forget_plugins()
    assert lines_of(None)["plugins"].found == "idle_plugin"
    monkeypatch.setenv(PLUGINS_VARIABLE, "absent_plugin")
    line = lines_of(None)["plugins"]
    assert line.status is Status.RED
    assert "FLOE_LLM_PLUGINS" in line.advice
    forget_plugins()


@pytest.mark.parametrize(
    ("variables", "status"),
    [
        ({}, Status.GREEN),
        ({"VLLM_USE_RUST_FRONTEND": "0"}, Status.GREEN),
        ({"VLLM_USE_RUST_FRONTEND": "1"}, Status.UNKNOWN),
        ({"VLLM_USE_RUST_FRONTEND": "1", "FLOE_GATE_CONFIG": "gate.json"}, Status.RED),
    ],
)
def test_a_front_end_without_middleware_is_warned_of(
    variables: dict[str, str], status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VLLM_USE_RUST_FRONTEND", "FLOE_GATE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    line = doctor_environment._front_end()
    assert line.status is status
    assert ("runs no Python middleware" in line.found) == (status is not Status.GREEN)
