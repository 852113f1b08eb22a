"""The file of a device's answers: whole, one, and its user's alone, on any file system."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flower_strategy.device.embedding import MeanEmbedding
from flower_strategy.device.embedding_answers import Answer, AnswersError, kept_answers

MEAN = MeanEmbedding(np.arange(4, dtype=np.float64), 3, 0.5)


def tell(path: Path, text: str) -> str:
    """Add an answer; return the file's secret."""
    with kept_answers(path) as answers:
        answers.sent.append(Answer(frozenset([text]), "model", MEAN))
        return answers.secret.hex()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers" / "device.json"


def left(path: Path) -> list[str]:
    """Return what lies beside the file, locks aside."""
    return [p.name for p in path.parent.iterdir() if p != path and not p.name.endswith("lock")]


def test_answers_are_there_again_and_nobody_else_s(path: Path) -> None:
    secret = tell(path, "one")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    assert tell(path, "two") == secret
    with kept_answers(path) as answers:
        assert [answer.texts for answer in answers.sent] == [{"one"}, {"two"}]
        assert (answers.sent[0].mean.count, answers.sent[0].mean.noise) == (3, 0.5)
        np.testing.assert_array_equal(answers.sent[0].mean.mean, MEAN.mean)
        answers.replace(answers.sent[0], replace(MEAN, noise=0.7))
    with kept_answers(path) as answers:
        assert [answer.mean.noise for answer in answers.sent] == [0.7, 0.5]
        # A hash tells nothing to who has not the secret.
        assert answers.hashed(b"a") != answers.hashed(b"b")
        assert len(answers.hashed(b"a")) == 32
    assert left(path) == []


@pytest.mark.parametrize(
    "error",
    [OSError(95, "Operation not supported"), PermissionError(1, "x"), NotImplementedError()],
)
def test_a_file_system_without_links_and_locks_will_do(
    path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    # No such file system can be mounted here: the calls say what it would.
    monkeypatch.setattr(os, "link", fails)
    monkeypatch.setattr(fcntl, "flock", fails)
    secret = tell(path, "one")
    assert tell(path, "two") == secret
    assert left(path) == []


@pytest.mark.parametrize("dies_at", ["fsync", "replace"])
def test_a_process_that_dies_while_it_writes_leaves_nothing_for_long(
    path: Path, dies_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tell(path, "one")
    child = os.fork()
    if not child:
        monkeypatch.setattr(os, dies_at, lambda *_: os._exit(9))
        tell(path, "two")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(left(path)) == 1
    assert tell(path, "three") == secret
    assert left(path) == []
    stored = json.loads(path.read_text("utf-8"))["answers"]
    assert [answer["texts"] for answer in stored] == [["one"], ["three"]]


def test_processes_that_begin_at_once_agree(path: Path) -> None:
    begin, write = os.pipe()
    children = []
    for number in range(8):
        child = os.fork()
        if not child:
            os.close(write)
            os.read(begin, 1)  # ends for all of them when the parent closes its end
            tell(path, str(number))
            os._exit(0)
        children.append(child)
    os.close(write)
    os.close(begin)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    content = json.loads(path.read_text("utf-8"))
    assert sorted(text for answer in content["answers"] for text in answer["texts"]) == list(
        "01234567"
    )
    assert left(path) == []


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("", "JSONDecodeError"),
        ('{"format": 2}', "ValueError"),
        ('{"format": 1, "secret": "00", "answers": []}', "ValueError"),
        ("[]", "TypeError"),
    ],
)
def test_what_cannot_be_read_is_not_taken_for_absent(path: Path, content: str, cause: str) -> None:
    path.parent.mkdir()
    path.write_text(content, "utf-8")
    with pytest.raises(AnswersError) as caught:
        tell(path, "one")
    assert str(caught.value) == f"it cannot read the file of its earlier answers: {cause}"
    assert path.read_text("utf-8") == content


def test_what_cannot_be_kept_is_not_sent(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(AnswersError, match=r"cannot keep what .*: No space left on device$"):
            tell(path, "one")
    assert not path.exists()
    assert left(path) == []
    (tmp_path / "file").touch()
    # The server need not know where a device keeps what.
    with pytest.raises(AnswersError, match=r"lock the file of its earlier answers: [\w ]+$"):
        tell(tmp_path / "file" / "device.json", "one")
