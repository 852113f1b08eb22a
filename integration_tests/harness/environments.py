"""Separate environments for tests: created by uv once, and found again by their content.

uv uses the indexes that pip is configured with, so that both see the same packages.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from floe_plugins.files import locked

ROOT = Path(__file__).resolve().parents[2]

#: Where they are; git ignores it and `make clean` removes it.
FOLDER = ROOT / ".environments"

#: Longest installation, which may wait for a slow index.
_TIMEOUT_S = 540


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A virtual environment.

    Attributes
    ----------
    folder : Path
    seconds : float
        Time of its creation; 0 if it already existed.
    """

    folder: Path
    seconds: float

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def megabytes(self) -> float:
        """Size of its files, in units of 10^6 bytes, without compiled Python files."""
        files = (path for path in self.folder.rglob("*") if not path.is_symlink())
        return (
            sum(path.stat().st_size for path in files if path.is_file() and path.suffix != ".pyc")
            / 1e6
        )

    def run(
        self, *command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one of its commands, isolated from the caller's packages."""
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        path = f"{self.python.parent}{os.pathsep}{kept.get('PATH', '')}"
        return subprocess.run(
            [self.python.parent / command[0], *command[1:]],
            cwd=cwd,
            env={**kept, "PATH": path, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def base_requirements() -> list[str]:
    """Return what Floe requires without any extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return list(project["dependencies"])


def environment(
    name: str,
    requirements: Sequence[str],
    *,
    python: str = sys.executable,
    constraints: Sequence[Path] = (),
    options: Sequence[str] = (),
    inputs: Sequence[Path] = (),
) -> Environment:
    """Return the environment with some requirements; create it if absent.

    Parameters
    ----------
    name : str
        Its folder's name.
    requirements : sequence of str
        As for ``pip install``; files are known by their content.
    python : str, optional
        Its interpreter, or the interpreter's version.
    constraints : sequence of Path, optional
        Files with constraints.
    options : sequence of str, optional
        Further options of ``uv pip install``.
    inputs : sequence of Path, optional
        Further files whose content determines what is installed.

    Raises
    ------
    RuntimeError
        If it cannot be created; quotes uv's output.
    """
    folder = FOLDER / name
    key = _key(requirements, python, (*constraints, *inputs), options)
    stamp = folder / "made-from"
    FOLDER.mkdir(exist_ok=True)
    # Tests run in parallel, and two may need the same one.
    with locked(FOLDER / f"{name}.lock", without_locks="fail"):
        if stamp.is_file() and stamp.read_text("utf-8") == key:
            return Environment(folder=folder, seconds=0.0)
        started = time.monotonic()
        made = Environment(folder=folder, seconds=0.0)
        run_uv("venv", "--clear", "--python", python, str(folder))
        constrained = [f"--constraint={path}" for path in constraints]
        run_uv(
            *("pip", "install", "--python", str(made.python)),
            *(*constrained, *index_options(), *options, *requirements),
        )
        stamp.write_text(key, "utf-8")
    return Environment(folder=folder, seconds=time.monotonic() - started)


def _key(
    requirements: Sequence[str], python: str, files: Sequence[Path], options: Sequence[str]
) -> str:
    digest = hashlib.sha256(repr((sys.version, python, [*options])).encode())
    for text in requirements:
        path = Path(text)
        digest.update(path.read_bytes() if path.is_file() else text.encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def run_uv(*arguments: str) -> str:
    """Run uv and return its standard output.

    Raises
    ------
    RuntimeError
        If it fails; quotes its output.
    """
    done = subprocess.run(
        [uv(), *arguments],
        env=uv_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"`uv {' '.join(arguments)}` failed:\n{done.stderr.strip()}")
    return done.stdout


@cache
def uv() -> str:
    """Return the path of uv, which Flower brings."""
    found = shutil.which("uv", path=sysconfig.get_path("scripts")) or shutil.which("uv")
    if found is None:
        raise RuntimeError("There is no uv: the environment of `make setup` has one.")
    return found


@cache
def _pip_settings() -> dict[str, str]:
    """Return pip's settings without their sections; those of the environment win."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    lines = [line.partition("=") for line in listed.stdout.splitlines() if "=" in line]
    # "global.index-url", "install.index-url", ":env:.index-url": the stronger ones come last.
    rank = ("global", "install", ":env:")
    settings: dict[str, str] = {}
    for section in rank:
        for name, _, value in lines:
            if name.startswith(f"{section}."):
                settings[name.removeprefix(f"{section}.")] = str(ast.literal_eval(value))
    return settings


@cache
def index_options() -> tuple[str, ...]:
    """Return the options by which uv uses pip's indexes."""
    settings = _pip_settings()
    # pip takes the best version of all indexes, uv without this the first index that has any.
    options = ["--index-strategy=unsafe-best-match"]
    for setting, option in (
        ("index-url", "--default-index"),
        ("extra-index-url", "--index"),
        ("find-links", "--find-links"),
    ):
        options += [f"{option}={value}" for value in settings.get(setting, "").split()]
    return tuple(options)


def uv_environment() -> dict[str, str]:
    """Return the environment for uv: it fetches no Python, and trusts whom pip trusts."""
    variables = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
    variables.pop("VIRTUAL_ENV", None)
    if certificates := _pip_settings().get("cert"):
        variables.setdefault("SSL_CERT_FILE", certificates)
    return variables
