from pathlib import Path

import pytest

from floe_plugins.errors import ConfigError
from flower_strategy.server.sole_writer import sole_writer


def test_a_second_run_is_kept_out_until_the_first_one_ends(tmp_path: Path) -> None:
    output = tmp_path / "runs" / "one"
    with sole_writer(output):
        with (
            pytest.raises(ConfigError, match="Another run writes to the output folder"),
            sole_writer(output),
        ):
            pass
        with sole_writer(tmp_path / "runs" / "two"), sole_writer(None):
            pass
    with sole_writer(output):
        assert output.is_dir()


def test_a_run_that_fails_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), sole_writer(tmp_path):
        raise ZeroDivisionError
    with sole_writer(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_said_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    output = tmp_path / "file" / "run"
    with (
        pytest.raises(ConfigError, match=r"run cannot be written \(Not a directory\)"),
        sole_writer(output),
    ):
        pass
