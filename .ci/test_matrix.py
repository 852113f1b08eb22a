"""Runs the federated half's tests on the newest Flower, in `.venv-matrix`: `make test-matrix`.

`.venv` holds the newest Flower that installs beside vLLM. Later releases ask for versions of other
packages that vLLM refuses, so they get an environment of their own, without vLLM.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import setup_env
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FLOWER = "1.41.0"
VENV = setup_env.ROOT / ".venv-matrix"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "floe-setup"
CONSTRAINTS = VENV / "constraints.txt"

TESTS = (
    "flower_strategy",
    "integration_tests/federated_test.py::test_an_app_of_ones_own_is_short_and_runs",
    "integration_tests/federated_test.py::test_a_wrong_key_stops_the_run_with_one_sentence",
    "integration_tests/deployment_test.py",
)


def main() -> None:
    """Prepare the environment unless it is as it should be, then run the tests in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flower", default=FLOWER, help="version of flwr (default: %(default)s)")
    parser.add_argument("tests", nargs="*", help="what pytest gets instead of the usual list")
    arguments = parser.parse_args()
    prepare(arguments.flower)
    command = [PYTHON, "-m", "pytest", "--durations=10", *(arguments.tests or TESTS)]
    sys.exit(subprocess.run(command, cwd=setup_env.ROOT, check=False).returncode)


def prepare(flower: str) -> None:
    """Make the environment with this version of Flower."""
    key = _key(flower)
    if PYTHON.exists() and STAMP.is_file() and STAMP.read_text() == key:
        return
    started = time.monotonic()
    setup_env._say(f"Preparing {VENV} with flwr {flower}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    pinned = setup_env.CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    requirement = f"flwr[simulation]=={flower}"
    kept, dropped = fitting([requirement, *requirements_of(requirement)], pinned)
    setup_env._say(f"Without the pins of {', '.join(dropped)}, which flwr {flower} does not take")
    CONSTRAINTS.write_text("\n".join(kept) + "\n", encoding="utf-8")
    pip(
        "install",
        "--no-compile",
        "--quiet",
        *setup_env._torch_options(),
        "--constraint",
        str(CONSTRAINTS),
        "--editable",
        f"{setup_env.ROOT}[federated,dev]",
        requirement,
    )
    STAMP.write_text(key)
    setup_env._say(f"{VENV.name} is ready after {time.monotonic() - started:.0f} s")


def fitting(requirements: Iterable[str], pinned: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the lines of a constraints file that requirements allow, and the others' names.

    Parameters
    ----------
    requirements : Iterable[str]
        What is to be installed, and what it requires.
    pinned : Iterable[str]
        Lines ``NAME==VERSION``; comments and empty lines are left out.
    """
    wanted = [Requirement(text) for text in requirements]
    kept, dropped = [], []
    for line in pinned:
        if not line.strip() or line.startswith("#"):
            continue
        pin = Requirement(line)
        version = next(iter(pin.specifier)).version
        asked = [
            one for one in wanted if canonicalize_name(one.name) == canonicalize_name(pin.name)
        ]
        if all(one.specifier.contains(version, prereleases=True) for one in asked):
            kept.append(line)
        else:
            dropped.append(pin.name)
    return kept, dropped


def requirements_of(requirement: str) -> list[str]:
    """Return what a distribution requires in this interpreter, without installing it."""
    question = [
        "install",
        "--quiet",
        "--dry-run",
        "--no-deps",
        "--ignore-installed",
        "--report",
        "-",
    ]
    report = subprocess.run(
        [PYTHON, "-m", "pip", *question, requirement],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    (found,) = json.loads(report.stdout)["install"]
    environments = [{"extra": ""}, *({"extra": extra} for extra in Requirement(requirement).extras)]
    return [
        text
        for text in found["metadata"].get("requires_dist", [])
        if (marker := Requirement(text).marker) is None
        or any(marker.evaluate(environment) for environment in environments)
    ]


def pip(command: str, *arguments: str) -> None:
    """Run pip in the environment."""
    done = subprocess.run(
        [PYTHON, "-m", "pip", "--disable-pip-version-check", command, *arguments],
        cwd=setup_env.ROOT,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"Set-up stopped: `pip {command}` failed with exit code {done.returncode}.")


def _key(flower: str) -> str:
    digest = hashlib.sha256(f"{setup_env._key()} {flower}".encode())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    # Children must find the tools of their own environment first.
    os.environ["PATH"] = f"{PYTHON.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    main()
