"""The texts: files of documents, as bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from floe_plugins.errors import FloeError
from flower_strategy.data.embedded import make_examples
from flower_strategy.data.jsonl import to_examples
from integration_tests.benchmarks.data import task_files

#: In front of the name of an embedded task, in the place of a file.
EMBEDDED = "embedded:"

#: As many as any limit has used so far; a limit of bytes ends a text much earlier.
_EXAMPLES = 64


class TextError(FloeError):
    """A file that holds no text to score."""


def default_texts() -> list[str]:
    """Return GSM8K and PubMedQA where they are, and code; only embedded tasks elsewhere."""
    files = [str(file) for file in task_files()]
    return [*(files or [f"{EMBEDDED}arithmetic", f"{EMBEDDED}records"]), f"{EMBEDDED}code"]


def read_text(name: str, *, seed: int, limit_bytes: int | None = None) -> list[bytes]:
    """Read the documents of a file, or of an embedded task.

    Parameters
    ----------
    name : str
        A file, see `read_documents`, or ``embedded:TASK``.
    seed : int
        Of the embedded task.
    limit_bytes : int, optional
        Stop after so many bytes, at the end of a character.

    Raises
    ------
    FloeError
        There is no such task, or the file holds no text.
    """
    if not name.startswith(EMBEDDED):
        return read_documents(Path(name), limit_bytes=limit_bytes)
    task = name.removeprefix(EMBEDDED)
    examples = make_examples(task, count=_EXAMPLES, seed=seed)
    return _cut([each.text for each in examples], limit_bytes)


def read_documents(path: Path, *, limit_bytes: int | None = None) -> list[bytes]:
    """Read the documents of a file.

    Parameters
    ----------
    path : Path
        A ``.jsonl`` file is one document per line: its key ``text``, or prompt and response as the
        federated half reads them (question and answer, with or without a context); any other file
        is one document.
    limit_bytes : int, optional
        Stop after so many bytes, at the end of a character.

    Raises
    ------
    TextError
        If the file cannot be read, is not UTF-8, or has no text in it.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"{str(path)!r} cannot be read as UTF-8 text: {error}.") from error
    texts = _texts_of(path, content) if path.suffix == ".jsonl" else [content]
    documents = _cut(texts, limit_bytes)
    if not documents:
        raise TextError(f"{str(path)!r} holds no text.")
    return documents


def _cut(texts: list[str], limit_bytes: int | None) -> list[bytes]:
    documents = []
    left = limit_bytes
    for data in map(str.encode, texts):
        whole = left is None or len(data) <= left
        kept = data if whole else data[:left].decode("utf-8", errors="ignore").encode()
        if kept:
            documents.append(kept)
        if not whole:
            break
        left = None if left is None else left - len(data)
    return documents


def _texts_of(path: Path, lines: str) -> list[str]:
    texts = []
    # Not splitlines(): JSON strings may hold U+2028 as it is.
    for number, line in enumerate(lines.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TextError(f"Line {number} of {str(path)!r} is no JSON object.") from error
        texts.append(_text_of(row, number, path))
    return texts


def _text_of(row: Any, number: int, path: Path) -> str:
    if not isinstance(row, dict):
        raise TextError(f"Line {number} of {str(path)!r} is no JSON object.")
    if "text" not in row:
        (example,) = to_examples([(number, row)], source=str(path), template=None)
        return example.text
    if not isinstance(row["text"], str):
        raise TextError(f"'text' in line {number} of {str(path)!r} is no string: {row['text']!r}.")
    return row["text"]
