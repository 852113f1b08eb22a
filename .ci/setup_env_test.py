import runpy
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).resolve().parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a checkout whose environment is prepared, as far as the set-up can tell."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(HERE / "setup_env.py", tmp_path / ".ci")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(HERE.parent / name, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / ".venv" / "floe-setup").write_text(key(tmp_path))
    return tmp_path


def key(checkout: Path) -> str:
    return str(runpy.run_path(str(checkout / ".ci" / "setup_env.py"))["_key"]())


def test_a_second_call_returns_at_once(checkout: Path) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, checkout / ".ci" / "setup_env.py"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("pyproject.toml", '"torch>=', '"torch>2,>='),
        ("constraints.txt", "torch==", "torch==1"),
        (".ci/setup_env.py", "minutes", "hours"),
    ],
)
def test_what_is_installed_from_asks_for_another_set_up(
    checkout: Path, name: str, old: str, new: str
) -> None:
    before = key(checkout)
    text = (checkout / name).read_text()
    assert old in text
    (checkout / name).write_text(text.replace(old, new))
    assert key(checkout) != before


def test_settings_of_tools_do_not(checkout: Path) -> None:
    before = key(checkout)
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("[tool.other]\nchanged = true\n")
    assert key(checkout) == before


def test_constraints_hold_every_direct_dependency() -> None:
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    lines = (HERE.parent / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    extras = project["optional-dependencies"]
    direct = project["dependencies"] + [
        requirement
        for extra in ("federated", "serving-cpu", "embedded", "dev")
        for requirement in extras[extra]
    ]
    for text in direct:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text
