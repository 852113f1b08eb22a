import multiprocessing
import os
import time
from pathlib import Path

import pytest

from floe_plugins.errors import ModelError
from floe_plugins.models.checkpoint_folder import MANIFEST, fault, make


def fill(work: Path) -> None:
    (work / "config.json").write_text("{}")
    (work / "weights").write_bytes(b"w" * (3 << 20))


def hidden(parent: Path) -> list[str]:
    return [path.name for path in parent.glob(".*") if path.suffix != ".lock"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "cache" / "model", fill, facts={"model": "m"})


def test_a_folder_is_made_once(folder: Path) -> None:
    def never(work: Path) -> None:
        raise AssertionError

    assert make(folder, never, facts={}) == folder
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", MANIFEST, "weights"]
    assert fault(folder, thorough=True) is None
    assert hidden(folder.parent) == []


@pytest.mark.parametrize(
    ("damage", "clause"),
    [
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json has changed"),
        (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
        (lambda folder: os.truncate(folder / "weights", 5), "weights has 5 bytes"),
        (lambda folder: (folder / MANIFEST).write_text("{"), MANIFEST),
        (lambda folder: (folder / MANIFEST).unlink(), MANIFEST),
    ],
)
def test_a_damaged_folder_is_made_again(folder: Path, damage, clause) -> None:  # type: ignore[no-untyped-def]
    damage(folder)
    found = fault(folder)
    assert found is not None
    assert clause in found
    make(folder, fill, facts={})
    assert fault(folder, thorough=True) is None
    assert hidden(folder.parent) == []


def test_a_large_file_is_hashed_only_when_asked(folder: Path) -> None:
    (folder / "weights").write_bytes(b"x" * (3 << 20))
    assert fault(folder) is None
    assert fault(folder, thorough=True) == "weights has changed"


class Interruption(BaseException):
    """Stands for Ctrl-C, which may come at any time."""


@pytest.mark.parametrize("error", [Interruption(), RuntimeError(), ModelError("no")])
def test_nothing_is_left_behind_when_filling_stops(tmp_path: Path, error: BaseException) -> None:
    def stop(work: Path) -> None:
        fill(work)
        raise error

    with pytest.raises(type(error)):
        make(tmp_path / "model", stop, facts={})
    assert not (tmp_path / "model").exists()
    assert hidden(tmp_path) == []


def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path) -> None:
    def overflow(work: Path) -> None:
        fill(work)
        # The kernel answers every write here with "no space left on device".
        Path("/dev/full").write_bytes(b"w")

    with pytest.raises(ModelError, match=r"is full .* free at least") as caught:
        make(tmp_path / "model", overflow, facts={})
    assert "FLOE_CACHE_DIR" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.glob("model*")) == []
    assert hidden(tmp_path) == []


def test_a_cache_that_cannot_be_made_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="FLOE_CACHE_DIR"):
        make(tmp_path / "file" / "model", fill, facts={})


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        make(tmp_path / "model", lambda _: os._exit(9), facts={})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (stale,) = tmp_path.glob(".model.*.part")
    stale_of_another = tmp_path / stale.name.replace("model", "model.x")
    stale_of_another.mkdir()
    make(tmp_path / "model", fill, facts={})
    assert not stale.exists()
    assert stale_of_another.exists()


def _make_slowly(folder: Path, log: Path) -> None:
    def slowly(work: Path) -> None:
        with log.open("a") as file:
            file.write("filled\n")
        time.sleep(0.5)
        fill(work)

    make(folder, slowly, facts={})
    assert fault(folder, thorough=True) is None


def test_processes_wait_for_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_make_slowly, args=(tmp_path / "model", tmp_path / "log"))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "filled\n"
