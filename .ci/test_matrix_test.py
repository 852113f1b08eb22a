"""Which pins stay when another version of one package is to be installed."""

import runpy
from pathlib import Path

fitting = runpy.run_path(str(Path(__file__).with_name("test_matrix.py")))["fitting"]


def test_only_pins_that_are_refused_are_dropped() -> None:
    asked = ["flwr[simulation]==1.41.0", "Path_Spec>=1.0,<2", "numpy>=1.26", "numpy<3", "new-one"]
    pinned = ["# why", "", "flwr==1.32.1", "path-spec==0.12.1", "numpy==2.3.5", "unrelated==1.0"]
    assert fitting(asked, pinned) == (["numpy==2.3.5", "unrelated==1.0"], ["flwr", "path-spec"])


def test_a_local_build_fits_the_version_that_is_asked_for() -> None:
    assert fitting(["torch>=2.6"], ["torch==2.13.0+cpu"]) == (["torch==2.13.0+cpu"], [])
