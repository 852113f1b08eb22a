"""The gate behaves as `docs/how-to/gate.md` shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from floe_plugins.cli import main
from floe_plugins.gate.settings import CloudSettings, GateSettings

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "gate.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = blocks("python")
    exec(compile(program, "gate.md", "exec"), {})
    first, second = capsys.readouterr().out.splitlines()
    assert first == "redacted Write to <EMAIL>, please."
    assert second == "('my card is <CARD>', 'Go on.', '<CARD>')"


def test_the_files_are_accepted(tmp_path: Path) -> None:
    *plain, with_cloud = (json.loads(block) for block in blocks("json"))
    assert len(plain) == 2
    for values in plain:
        GateSettings.from_mapping(values, source="gate.md").gate()
    settings = GateSettings.from_mapping(with_cloud, source="gate.md")
    settings.gate()
    (tmp_path / "llm.key").write_text("key")
    section = {**with_cloud["cloud"], "api_key_file": str(tmp_path / "llm.key")}
    cloud = CloudSettings.from_mapping(section)
    for key, value in re.findall(r"^\| `(\w+_s)` \| `([\d.]+)` \|", PAGE, re.MULTILINE):
        owner = cloud if hasattr(cloud, key) else GateSettings()
        assert getattr(owner, key) == float(value), key


def test_the_commands_say_what_they_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shell = blocks("bash")[0]
    text = re.search(r"echo '(.*)' > mail.txt", shell)
    assert text is not None
    Path("mail.txt").write_text(text[1] + "\n", encoding="utf-8")
    commands = re.findall(r"^floe-llm (.*)$", shell, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert main(command.split()) == 1
    out = capsys.readouterr().out
    assert "Write to <EMAIL>, card <CARD>." in out
    assert "example dot org" not in out
