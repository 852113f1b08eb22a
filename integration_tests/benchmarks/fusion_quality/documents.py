"""The texts: files of documents, as bytes."""

from __future__ import annotations

import json
from pathlib import Path

from floe_plugins.errors import FloeError


class TextError(FloeError):
    """A file that holds no text to score."""


def read_documents(path: Path, *, limit_bytes: int | None = None) -> list[bytes]:
    """Read the documents of a file.

    Parameters
    ----------
    path : Path
        A ``.jsonl`` file is one document per line, in its key ``text``; any other file is one
        document.
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
    if not documents:
        raise TextError(f"{str(path)!r} holds no text.")
    return documents


def _texts_of(path: Path, lines: str) -> list[str]:
    texts = []
    # Not splitlines(): JSON strings may hold U+2028 as it is.
    for number, line in enumerate(lines.split("\n"), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise TextError(
                f"Line {number} of {str(path)!r} is no JSON object with a key 'text'."
            ) from error
        if not isinstance(text, str):
            raise TextError(f"'text' in line {number} of {str(path)!r} is no string: {text!r}.")
        texts.append(text)
    return texts
