"""The columns of the matrix, and which pins stay when another version is installed."""

import runpy
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

HERE = Path(__file__).resolve().parent
MODULE = runpy.run_path(str(HERE / "test_matrix.py"))
fitting = MODULE["fitting"]


def test_only_pins_that_are_refused_are_dropped() -> None:
    asked = ["flwr[simulation]==1.41.0", "Path_Spec>=1.0,<2", "numpy>=1.26", "numpy<3", "new-one"]
    pinned = ["# why", "", "flwr==1.32.1", "path-spec==0.12.1", "numpy==2.3.5", "unrelated==1.0"]
    assert fitting(asked, pinned) == (["numpy==2.3.5", "unrelated==1.0"], ["flwr", "path-spec"])


def test_a_local_build_fits_the_version_that_is_asked_for() -> None:
    assert fitting(["torch>=2.6"], ["torch==2.13.0+cpu"]) == (["torch==2.13.0+cpu"], [])


def test_a_package_whose_pin_is_to_go_loses_it() -> None:
    assert fitting(["numpy<0"], ["numpy==2.3.5", "torch==2.13.0"])[1] == ["numpy"]


def test_every_column_has_a_name_of_its_own_and_tests_that_exist() -> None:
    matrix = MODULE["MATRIX"]
    assert len({each.name for each in matrix}) == len(matrix) == 5
    for test in {test for each in matrix for test in each.tests}:
        assert (HERE.parent / test.partition("::")[0]).exists()


def test_the_ranges_of_the_project_end_at_the_newest_that_the_matrix_runs() -> None:
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))["project"]
    tested = {
        Requirement(text).name: next(iter(Requirement(text).specifier)).version
        for text in (
            *(text for column in MODULE["MATRIX"] for text in column.requirements),
            MODULE["NEWEST_VLLM"],
        )
    }
    extras = project["optional-dependencies"]
    for extra in ("federated", "fusion", "serving"):
        for requirement in map(Requirement, extras[extra]):
            if requirement.name in tested:
                version = Version(tested[requirement.name])
                assert requirement.specifier.contains(str(version)), requirement
                after = f"{version.major}.{version.minor + 1}"
                assert not requirement.specifier.contains(after), requirement
