import importlib
import io
import json
import re
import subprocess
import sys
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
    "arguments",
    [[], ["model"], ["model", "list"], ["model", "export"], ["check"], ["plugins"], ["schema"]],
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
    assert out.splitlines() == [
        "local",
        "  line 2, column 10, 15 characters: EMAIL",
        "  why: EMAIL contact data; profile personal",
    ]


def test_check_prints_json(capsys: pytest.CaptureFixture[str], private_file: str) -> None:
    code, out, _ = run(capsys, "check", private_file, "--json")
    verdict = json.loads(out)
    assert code == 1
    assert verdict["decision"] == "local"
    assert verdict["labels"] == ["EMAIL"]
    assert verdict["spans"] == [{"start": 16, "end": 31, "label": "EMAIL", "score": 1.0}]
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
    assert run(capsys, "check") == (0, "clear\n  why: nothing found; profile personal\n", "")


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
    assert err == (
        f"floe-llm: {tmp_path / 'absent'} cannot be read: No such file or directory. It is taken "
        "for a file; a text comes on standard input.\n"
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [("--port", "80001"), ("--port", "-1"), ("--port", "http"), ("--slots", "0")],
)
def test_slm_serve_refuses_what_cannot_be(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["slm", "serve", "embedded:smollm2-135m-instruct", f"{option}={value}"])
    said = capsys.readouterr().err
    assert f"argument {option}: {value!r} is not accepted; a whole number from" in said


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


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "schema", "gate")
    assert code == 0
    assert json.loads(out)["properties"]["policy"]["enum"] == ["strict", "redact", "labels"]
    assert run(capsys, "schema", "gate", "--json") == (0, out, "")


@pytest.mark.parametrize("name", ["gate", "run", "serving"])
def test_schemas_need_no_framework(name: str) -> None:
    heavy = ("torch", "transformers", "vllm", "flwr", "peft", "numpy")
    code = (
        f"import sys; from floe_plugins.cli import main; main(['schema', {name!r}]); "
        f"print([each for each in {heavy} if each in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert done.stderr.strip() == "[]"


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


COMMAND = """
def add_to(commands):
    parser = commands.add_parser({name!r}, help="a command")
    {then}
    parser.set_defaults(run=lambda arguments: 7)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Return a function that installs a distribution with commands, as files on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(commands: dict[str, str]) -> None:
        info = tmp_path / "other-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
        lines = ["[floe_llm.commands]"]
        for index, (name, code) in enumerate(commands.items()):
            module = f"other_command_{index}_{tmp_path.name}".replace("-", "_")
            (tmp_path / f"{module}.py").write_text(code)
            lines.append(f"{name} = {module}")
        (info / "entry_points.txt").write_text("\n".join(lines))
        importlib.invalidate_caches()

    return install


def test_an_installed_command_runs(install) -> None:  # type: ignore[no-untyped-def]
    install({"seven": COMMAND.format(name="seven", then="")})
    assert main(["seven"]) == 7


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import absent_module", "ModuleNotFoundError: No module named 'absent_module'"),
        ("nothing = 1", "AttributeError: module"),
        (COMMAND.format(name="broken", then="raise OSError('100% full')"), "OSError: 100% full"),
        (COMMAND.format(name="check", then=""), "the name 'check' is taken"),
    ],
)
def test_a_broken_command_is_listed_and_breaks_no_other(  # type: ignore[no-untyped-def]
    install, capsys: pytest.CaptureFixture[str], code: str, reason: str
) -> None:
    install({"broken": code, "seven": COMMAND.format(name="seven", then="")})
    for arguments in (["broken"], ["broken", "FILE", "--json"], ["broken", "--help"]):
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"floe-llm: The command 'broken' of other cannot be loaded: {reason}")
        assert err.count("\n") == 1
    assert main(["seven"]) == 7
    assert main(["model", "list"]) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["--help"])
    assert f"cannot be loaded: {reason}"[:30] in " ".join(capsys.readouterr().out.split())


def test_a_broken_command_with_a_taken_name_is_listed_under_another(  # type: ignore[no-untyped-def]
    install, capsys: pytest.CaptureFixture[str]
) -> None:
    install({"model": "import absent_module"})
    assert main(["other:model"]) == 2
    assert "absent_module" in capsys.readouterr().err
    assert main(["model", "list"]) == 0


def test_the_commands_of_the_federated_half_are_there_and_light() -> None:
    code = (
        "import contextlib, sys\n"
        "from floe_plugins.cli import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['--help'])\n"
        "heavy = ('torch', 'transformers', 'flwr', 'sklearn', 'scipy', 'vllm', 'ray', 'peft')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "report" in done.stdout
    assert "adapter" in done.stdout
    assert "cannot be loaded" not in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
