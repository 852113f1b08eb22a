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


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", ".ci/setup_env.py"])
def test_a_change_asks_for_another_set_up(checkout: Path, name: str) -> None:
    before = key(checkout)
    with (checkout / name).open("a") as file:
        file.write("# changed\n")
    assert key(checkout) != before


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
