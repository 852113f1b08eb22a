"""Files and folders are whole or absent; locks, and file systems without them."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from pathlib import Path

import pytest

from floe_plugins import files
from floe_plugins.files import (
    WithoutLocks,
    locked,
    new_folder,
    remove_all_parts,
    remove_parts,
    replace_by_link,
    replace_link,
    write_file,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Such a file system cannot be mounted here, so the call raises its error.
    def fails(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", fails)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("content", ["ä\n", b"\x00\xff"])
def test_a_file_is_written_and_replaced(
    tmp_path: Path, content: str | bytes, durable: bool
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    write_file(path, content, durable=durable)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o640), (0o600, 0o600), (0o666, 0o666)])
def test_a_file_has_the_mode_that_is_asked_for(
    tmp_path: Path, mode: int | None, expected: int
) -> None:
    umask = os.umask(0o027)
    try:
        write_file(tmp_path / "file", "", mode=mode)
    finally:
        os.umask(umask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == expected


@pytest.mark.parametrize("fails_at", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, fails_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, fails_at, full)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, "new", durable=True)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("durable", [False, True])
def test_a_folder_appears_when_it_is_complete(tmp_path: Path, durable: bool) -> None:
    folder = tmp_path / "folder"
    with new_folder(folder, durable=durable) as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").write_text("new")
        assert not folder.exists()
    assert (folder / "inner" / "file").read_text() == "new"
    assert names(tmp_path) == ["folder"]


def test_a_folder_with_content_is_replaced_only_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with new_folder(folder) as part:
        (part / "old").touch()
    with pytest.raises(OSError, match="not empty"), new_folder(folder):
        pass
    assert names(folder) == ["old"]
    with new_folder(folder, replace=True) as part:
        (part / "new").touch()
    assert names(folder) == ["new"]
    assert names(tmp_path) == ["folder"]


def test_the_old_folder_is_put_back_when_the_new_one_cannot_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").touch()
    rename = Path.rename

    def fails(path: Path, target: Path) -> Path:
        if target == folder and (path / "new").exists():
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with (
        pytest.raises(OSError, match="Input/output"),
        new_folder(folder, replace=True) as part,
    ):
        (part / "new").touch()
    assert names(folder) == ["old"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_leaves_no_folder(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), new_folder(tmp_path / "folder"):
        raise error
    assert names(tmp_path) == []


def test_parts_of_killed_processes_are_removed_and_no_other_file(tmp_path: Path) -> None:
    parts = [".a[1].0123abcd.part", ".a[1].89abcdef.part"]
    (tmp_path / parts[0]).touch()
    (tmp_path / parts[1]).mkdir()
    others = [".a[1].b.0123abcd.part", ".a1.0123abcd.part", "a[1]", "a[1].part"]
    for name in others:
        (tmp_path / name).touch()
    remove_parts(tmp_path / "a[1]")
    assert names(tmp_path) == sorted(others)


@pytest.mark.parametrize("durable", [False, True])
def test_a_link_is_made_and_replaced(tmp_path: Path, durable: bool) -> None:
    link = tmp_path / "link"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        replace_link(link, name, durable=durable)
        assert (link / "file").read_text() == name
    assert names(tmp_path) == ["a", "b", "link"]


def test_a_link_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.mkdir()
    (link / "file").touch()
    with pytest.raises(OSError, match="link"):
        replace_link(link, "elsewhere")
    assert names(tmp_path) == ["link"]
    assert names(link) == ["file"]


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_link_takes_the_place_of_what_is_there(
    tmp_path: Path, kind: str, exchanges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchanges:
        # Such a file system cannot be mounted here.
        monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    for name in ("new", "parts", "path" if kind == "folder" else "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    path = tmp_path / "path"
    if kind == "file":
        path.touch()
    elif kind == "link":
        path.symlink_to("old")
    replace_by_link(path, "new", parts=tmp_path / "parts")
    assert os.readlink(path) == "new"
    assert (path / "file").read_text() == "new"
    assert names(tmp_path / "parts") == ["file"]
    if kind == "link":
        assert names(tmp_path / "old") == ["file"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_a_folder_and_a_link_are_exchanged_in_one_step(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    assert files._exchanged(tmp_path / "link", tmp_path / "folder")
    assert (tmp_path / "link").is_dir()
    assert not (tmp_path / "link").is_symlink()
    assert os.readlink(tmp_path / "folder") == "folder"
    with pytest.raises(FileNotFoundError, match="absent"):
        files._exchanged(tmp_path / "link", tmp_path / "absent")


def test_a_folder_that_cannot_be_exchanged_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    for path in (folder, tmp_path / "parts"):
        path.mkdir()
    (folder / "old").touch()
    rename = Path.rename

    def fails(path: Path, target: Path) -> Path:
        if target == folder and path.is_symlink():
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="Input/output"):
        replace_by_link(folder, "elsewhere", parts=tmp_path / "parts")
    assert names(folder) == ["old"]
    assert names(tmp_path / "parts") == []


def test_all_parts_of_a_folder_are_removed_and_not_what_links_point_to(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    for path in (folder / ".a.0123abcd.part", other):
        path.mkdir(parents=True)
        (path / "file").touch()
    (folder / ".b.0123abcd.part").touch()
    (folder / ".c.0123abcd.part").symlink_to(other)
    kept = [".a.part", "a.0123abcd.part", "b"]
    for name in kept:
        (folder / name).touch()
    remove_all_parts(folder)
    assert names(folder) == sorted(kept)
    assert names(other) == ["file"]


def test_one_holds_a_lock_at_a_time(tmp_path: Path) -> None:
    path, waited = tmp_path / "folder" / "lock", threading.Event()

    def waits() -> None:
        with locked(path, without_locks="fail", on_wait=waited.set):
            pass

    with locked(path, without_locks="fail", on_wait=waited.set) as missing:
        assert missing is None
        assert not waited.is_set()
        with pytest.raises(TimeoutError), locked(path, without_locks="go_on", timeout=0):
            pass
        waiting = threading.Thread(target=waits)
        waiting.start()
        assert waited.wait(30)
    waiting.join(30)
    assert not waiting.is_alive()


def test_an_error_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock", without_locks="fail"):
        raise ZeroDivisionError
    with locked(tmp_path / "lock", without_locks="fail", timeout=0):
        pass


@pytest.mark.usefixtures("no_locks")
def test_without_locks_it_fails_where_it_is_told_to(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"supported|available"),
        locked(tmp_path / "lock", without_locks="fail"),
    ):
        raise AssertionError


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_marker_file_keeps_others_out(tmp_path: Path) -> None:
    path = tmp_path / "file.lock"
    with locked(path, without_locks="marker_file") as missing:
        assert missing is None
        assert (tmp_path / "file.softlock").exists()
        with pytest.raises(TimeoutError), locked(path, without_locks="marker_file", timeout=0):
            pass
    assert not (tmp_path / "file.softlock").exists()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_it_goes_on_and_tells_why(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", without_locks="go_on") as missing:
        assert isinstance(missing, (OSError, NotImplementedError))


@pytest.mark.parametrize("without_locks", ["fail", "marker_file"])
def test_where_nothing_can_be_written_only_the_lenient_go_on(
    tmp_path: Path, without_locks: WithoutLocks
) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "lock"
    with pytest.raises(FileExistsError), locked(path, without_locks=without_locks, timeout=5):
        pass
    with locked(path, without_locks="go_on") as missing:
        assert isinstance(missing, OSError)
