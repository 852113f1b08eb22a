"""A result is current or is not, and the links at the top show the current one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from floe_plugins import files
from floe_plugins.errors import ConfigError
from flower_strategy.run_folder import result_folder
from flower_strategy.server.result_folders import ExportError, ResultFolders


def put(results: ResultFolders, server_round: int, *, text: str = "", clusters: int = 1) -> None:
    with results.new(server_round) as folder:
        for name in ("manifest.json", "history.json"):
            (folder / name).write_text(text or f"round {server_round}")
        for index in range(clusters):
            (folder / f"cluster-{index}").mkdir()
            (folder / f"cluster-{index}" / "weights").write_text(text or f"round {server_round}")


def exports(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "exports").iterdir())


def at_the_top(output: Path) -> set[str]:
    """Return what all files at the top of an output folder say, with their names."""
    found = [path / "weights" if path.is_dir() else path for path in output.iterdir()]
    return {str(path.relative_to(output)) for path in found if path.is_file()}


def test_a_result_is_read_at_the_top_and_a_later_one_takes_its_place(tmp_path: Path) -> None:
    results = ResultFolders(tmp_path, after=-1)
    put(results, 2, clusters=3)
    first = result_folder(tmp_path)
    assert first == tmp_path / "exports" / "round-0002"
    assert (tmp_path / "cluster-2" / "weights").read_text() == "round 2"
    put(results, 4, clusters=2)
    assert at_the_top(tmp_path) == {
        *("manifest.json", "history.json", "cluster-0/weights", "cluster-1/weights")
    }
    assert not os.path.lexists(tmp_path / "cluster-2")
    for name in at_the_top(tmp_path):
        assert (tmp_path / name).read_text() == "round 4"
    # Who has opened the first one goes on reading it.
    assert (first / "manifest.json").read_text() == "round 2"
    assert exports(tmp_path) == ["current", "round-0002", "round-0004"]


def test_a_folder_keeps_its_result_when_it_is_moved_or_copied(tmp_path: Path) -> None:
    put(ResultFolders(tmp_path / "run", after=-1), 1)
    shutil.copytree(tmp_path / "run", tmp_path / "copy", symlinks=True)
    (tmp_path / "run").rename(tmp_path / "moved")
    for name in ("copy", "moved"):
        assert (tmp_path / name / "cluster-0" / "weights").read_text() == "round 1"


def test_runs_of_as_many_rounds_keep_the_result_before_the_last(tmp_path: Path) -> None:
    for text in ("a", "b", "c", "d"):
        put(ResultFolders(tmp_path, after=-1), 3, text=text)
        assert (tmp_path / "manifest.json").read_text() == text
    kept = {
        path.name: (path / "manifest.json").read_text() for path in (tmp_path / "exports").iterdir()
    }
    assert kept == {"current": "d", "round-0003": "c", "round-0003-2": "d"}


def test_a_new_run_removes_what_others_left_once_it_has_adapters(tmp_path: Path) -> None:
    before = ResultFolders(tmp_path, after=-1)
    for number in (2, 4, 6):
        put(before, number, text="before")
    put(ResultFolders(tmp_path, after=-1), 0, clusters=0)
    assert exports(tmp_path) == ["current", "round-0000", "round-0002", "round-0004", "round-0006"]
    results = ResultFolders(tmp_path, after=-1)
    put(results, 1)
    assert exports(tmp_path) == ["current", "round-0000", "round-0001"]
    put(results, 2)
    assert exports(tmp_path) == ["current", "round-0001", "round-0002"]


def test_a_resumed_run_keeps_the_results_of_the_rounds_before(tmp_path: Path) -> None:
    first = ResultFolders(tmp_path, after=-1)
    for number in (1, 2, 3, 4):
        put(first, number, text="first")
    again = ResultFolders(tmp_path, after=2)
    put(again, 3, text="again")
    put(again, 5, text="again")
    said = {
        path.name: (path / "manifest.json").read_text() for path in (tmp_path / "exports").iterdir()
    }
    assert said == {
        **{"round-0001": "first", "round-0002": "first"},
        **{"round-0003": "again", "round-0005": "again", "current": "again"},
    }


def layout_of_old(output: Path, *, clusters: int, text: str = "old") -> None:
    """Make a folder whose result stands in the folder itself."""
    output.mkdir(exist_ok=True)
    for name in ("manifest.json", "history.json"):
        (output / name).write_text(text)
    for index in range(clusters):
        (output / f"cluster-{index}").mkdir()
        (output / f"cluster-{index}" / "weights").write_text(text)


def test_a_copy_without_links_is_kept_beside_the_next_result(tmp_path: Path) -> None:
    put(ResultFolders(tmp_path / "run", after=-1), 1, clusters=2)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "run", copy)
    assert not any(path.is_symlink() for path in copy.rglob("*"))
    put(ResultFolders(copy, after=1), 2)
    assert at_the_top(copy) == {"manifest.json", "history.json", "cluster-0/weights"}
    for name in at_the_top(copy):
        assert (copy / name).read_text() == "round 2"
    assert exports(copy) == ["current", "previous", "round-0001", "round-0002"]
    kept = copy / "exports" / "previous"
    assert at_the_top(kept) == at_the_top(copy) | {"cluster-1/weights"}
    for name in at_the_top(kept):
        assert (kept / name).read_text() == "round 1"


def test_an_old_layout_leaves_no_cluster_beside_those_of_the_new_result(tmp_path: Path) -> None:
    layout_of_old(tmp_path, clusters=3)
    (tmp_path / "cluster-notes").mkdir()
    results = ResultFolders(tmp_path, after=-1)
    assert (tmp_path / "manifest.json").read_text() == "old"
    put(results, 1)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("manifest.json", "history.json", "cluster-0", "cluster-notes", "exports")
    }
    assert (tmp_path / "cluster-0" / "weights").read_text() == "round 1"
    assert at_the_top(tmp_path / "exports" / "previous") == {
        *("manifest.json", "history.json", *(f"cluster-{index}/weights" for index in range(3)))
    }


def test_only_the_last_of_the_results_that_were_taken_over_is_kept(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4):
        for path in [path for path in tmp_path.iterdir() if path.name != "exports"]:
            path.unlink()
        layout_of_old(tmp_path, clusters=1, text=f"old {number}")
        put(ResultFolders(tmp_path, after=number - 1), number)
        assert (tmp_path / "manifest.json").read_text() == f"round {number}"
    assert (tmp_path / "exports" / "previous" / "manifest.json").read_text() == "old 4"
    assert "previous-2" not in exports(tmp_path)


def test_what_is_no_result_in_the_place_of_one_is_kept(tmp_path: Path) -> None:
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "current").write_text("mine")
    (tmp_path / "history.json").symlink_to("absent")
    put(ResultFolders(tmp_path, after=-1), 1)
    assert (tmp_path / "history.json").read_text() == "round 1"
    assert (tmp_path / "exports" / "current.previous").read_text() == "mine"
    assert exports(tmp_path) == ["current", "current.previous", "round-0001"]


def test_a_file_in_the_place_of_the_results_is_said_before_the_run(tmp_path: Path) -> None:
    layout_of_old(tmp_path, clusters=1)
    (tmp_path / "exports").write_text("mine")
    with pytest.raises(ConfigError, match="exports is a file, and results are kept in a folder"):
        ResultFolders(tmp_path, after=-1)
    assert (tmp_path / "exports").read_text() == "mine"
    assert (tmp_path / "manifest.json").read_text() == "old"


def test_without_exchanges_of_names_a_killed_take_over_is_whole_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout_of_old(tmp_path, clusters=2)
    # No such file system can be mounted here. The kill comes when a folder has lost its name.
    monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if target.name == "cluster-1":
            raise KeyboardInterrupt
        return rename(path, target)

    results = ResultFolders(tmp_path, after=-1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            put(results, 1)
    assert not (tmp_path / "cluster-1").exists()
    ResultFolders(tmp_path, after=-1)
    assert exports(tmp_path) == ["current", "previous", "round-0001"]
    for name in ("manifest.json", "history.json", "cluster-0/weights", "cluster-1/weights"):
        assert (tmp_path / name).read_text() == "old"
    results = ResultFolders(tmp_path, after=-1)
    put(results, 1)
    assert at_the_top(tmp_path) == {"manifest.json", "history.json", "cluster-0/weights"}
    assert (tmp_path / "manifest.json").read_text() == "round 1"
    put(results, 2)
    assert exports(tmp_path) == ["current", "previous-2", "round-0001", "round-0002"]


def test_parts_of_a_killed_process_are_removed_at_the_next_start(tmp_path: Path) -> None:
    put(ResultFolders(tmp_path, after=-1), 1)
    folder = tmp_path / "exports"
    (folder / ".round-0002.0123abcd.part").mkdir()
    (folder / ".round-0002.0123abcd.part" / "manifest.json").touch()
    (folder / ".current.0123abcd.part").symlink_to("round-0001")
    ResultFolders(tmp_path, after=1)
    assert exports(tmp_path) == ["current", "round-0001"]
    assert (tmp_path / "manifest.json").read_text() == "round 1"


def test_a_result_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    results = ResultFolders(tmp_path, after=-1)
    put(results, 1)
    with pytest.raises(ZeroDivisionError), results.new(2):
        raise ZeroDivisionError
    with (
        pytest.raises(
            ExportError, match=r"round 2 cannot be written to .*/exports/round-0002 \(No"
        ),
        results.new(2) as folder,
    ):
        (folder / "absent" / "file").touch()
    assert exports(tmp_path) == ["current", "round-0001"]
    assert (tmp_path / "manifest.json").read_text() == "round 1"


def test_a_file_system_without_links_is_said_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No such file system can be mounted here: the call says what it would.
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refused)
    with pytest.raises(ConfigError, match=r"exports cannot be written, or has no symbolic links"):
        ResultFolders(tmp_path, after=-1)


def test_a_folder_without_a_result_is_its_own(tmp_path: Path) -> None:
    assert result_folder(tmp_path) == tmp_path
    (tmp_path / "manifest.json").write_text("{}")
    assert result_folder(str(tmp_path)) == tmp_path
