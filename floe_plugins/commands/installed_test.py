import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from floe_plugins.cli import main

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
