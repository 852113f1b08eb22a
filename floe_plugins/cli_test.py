import io
import json
import re
from pathlib import Path

import pytest

from floe_plugins.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def private_file(tmp_path: Path) -> str:
    path = tmp_path / "mail.txt"
    path.write_text("Hello,\nwrite to joe@example.org.\n")
    return str(path)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert re.fullmatch(r"floe-llm \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments", [[], ["model"], ["model", "list"], ["model", "export"], ["check"], ["plugins"]]
)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--help"])
    assert caught.value.code == 0
    assert "usage: floe-llm" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["model"], ["nonsense"], ["check", "--policy", "x"]])
def test_wrong_usage_is_code_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: floe-llm" in capsys.readouterr().err


def test_check_shows_the_verdict_without_the_text(
    capsys: pytest.CaptureFixture[str], private_file: str
) -> None:
    code, out, _ = run(capsys, "check", private_file)
    assert code == 1
    assert out == "local\n  line 2, column 10, 15 characters: EMAIL\n"


def test_check_prints_json(capsys: pytest.CaptureFixture[str], private_file: str) -> None:
    code, out, _ = run(capsys, "check", private_file, "--json")
    verdict = json.loads(out)
    assert code == 1
    assert verdict["decision"] == "local"
    assert verdict["labels"] == ["EMAIL"]
    assert verdict["spans"] == [{"start": 16, "end": 31, "label": "EMAIL"}]
    assert verdict["scanned_all"] is True
    assert "joe@" not in out


def test_check_redacts(capsys: pytest.CaptureFixture[str], private_file: str) -> None:
    code, out, _ = run(capsys, "check", private_file, "--policy", "redact")
    assert code == 1
    assert out.startswith("redacted\n")
    assert out.endswith("Hello,\nwrite to <EMAIL>.\n")


def test_check_reads_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"What is 2 + 2?")))
    assert run(capsys, "check") == (0, "clear\n", "")


def test_check_keeps_what_is_no_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe text")
    code, out, _ = run(capsys, "check", str(tmp_path / "binary"))
    assert code == 1
    assert "not scanned: gate (plugin floe): invalid Unicode" in out


def test_a_file_that_is_missing_is_said_in_a_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = run(capsys, "check", str(tmp_path / "absent"))
    assert (code, out) == (2, "")
    assert err == f"floe-llm: {tmp_path / 'absent'} cannot be read: No such file or directory.\n"


def test_model_list(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "model", "list", "--json")
    assert code == 0
    assert {"name": "embedded:gemma-3-270m", "plugin": "floe"} in json.loads(out)
    _, out, _ = run(capsys, "model", "list")
    assert out.splitlines()[0].split() == ["NAME", "PLUGIN"]
    assert "embedded:smollm2-135m-instruct" in out


def test_model_export(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    target = str(tmp_path / "copy")
    code, out, _ = run(capsys, "model", "export", str(tmp_path / "model"), target)
    assert (code, out) == (0, f"{target}\n")
    code, _, err = run(capsys, "model", "export", str(tmp_path / "model"), target)
    assert code == 2
    assert err == f"floe-llm: The folder {target} has content; name an empty or a new one.\n"


def test_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plugins", "--json")
    assert code == 0
    floe = json.loads(out)[0]
    assert floe["name"] == "floe"
    assert floe["distribution"] == "floe-llm"
    assert "email" in floe["registers"]["floe_register_detectors"]
    _, out, _ = run(capsys, "plugins")
    assert re.search(r"^floe +\S+ +floe-llm +routers +evidence ", out, re.MULTILINE)


def test_plugins_by_dotted_path(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quiet_plugin.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    code, out, _ = run(capsys, "plugins", "--plugin", "quiet_plugin")
    assert code == 0
    assert "quiet_plugin" in out
    code, _, err = run(capsys, "plugins", "--plugin", "absent_plugin")
    assert code == 2
    assert "'absent_plugin'" in err
