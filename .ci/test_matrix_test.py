"""What the matrix holds, and which pins stay when another version is to be installed."""

import runpy
from pathlib import Path

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


def test_every_column_has_a_folder_of_its_own_and_tests_that_exist() -> None:
    matrix = MODULE["MATRIX"]
    assert len({each.folder for each in matrix}) == len({each.name for each in matrix}) == 4
    for test in {test for each in matrix for test in each.tests}:
        assert (HERE.parent / test.partition("::")[0]).exists()
    ignored = (HERE.parent / ".gitignore").read_text().splitlines()
    assert "/.venv-matrix*/" in ignored
    for each in matrix:
        assert each.folder == ".venv" or each.folder.startswith(".venv-matrix")
