"""Writes what becomes of each form of training data, on ``docs/reference/data.md``.

``python -m tools.data_forms`` reads a tiny file of every format, makes an example of a row of every
form, and puts what came of them between the page's marks.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError
from flower_strategy.data import read_examples
from flower_strategy.data.files import FORMATS, find_files, suffix_of
from flower_strategy.data.forms import FORMS, to_examples

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "data.md"
FILE_MARK, MARK, END = "<!-- files -->\n", "<!-- forms -->\n", "<!-- end -->\n"
FILE_HEAD = (
    "| a file or folder | that holds | gives the prompts and responses |\n| --- | --- | --- |\n"
)
HEAD = "| a row such as | plain text: prompt, then response | chat: turns |\n| --- | --- | --- |\n"

_USER, _ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
_TALK = [{"role": "system", "content": "s"}, _USER, _ASSISTANT]

ROWS: tuple[dict[str, Any], ...] = (
    {"prompt": "q", "response": " a"},
    {"prompt": "q", "completion": " a"},
    {"prompt": "q", "chosen": " a", "rejected": " b"},
    {"question": "q", "chosen": " a", "rejected": " b"},
    {"instruction": "q", "input": "n", "output": "a"},
    {"instruction": "q", "input": None, "output": "a"},
    {"instruction": "q", "input": "n", "response": "a"},
    {"instruction": "q", "context": "c", "response": "a"},
    {"instruction": "q", "output": "a"},
    {"instruction": "q", "response": "a"},
    {"context": "c", "question": "q", "answer": "yes", "long_answer": "Since."},
    {"context": "c", "question": "q", "answer": "a"},
    {"context": "c", "question": "q", "answers": {"text": ["a", "b"]}},
    {"question": "q", "answers": ["a", "b"]},
    {"question": "q", "answer": "a"},
    {"question": "q", "response": "a"},
    {"text": "t"},
    {"chosen": "t", "rejected": "u"},
    {"messages": _TALK},
    {"messages": json.dumps(_TALK)},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"conversation": [_USER, _ASSISTANT]},
    {"prompt": [_USER], "completion": [_ASSISTANT]},
    {"prompt": [_USER], "chosen": [_ASSISTANT], "rejected": [_ASSISTANT]},
    {"chosen": [_USER, _ASSISTANT], "rejected": [_USER, _ASSISTANT]},
    {"messages": [_USER]},
    {"messages": [{"role": "narrator", "content": "q"}, _ASSISTANT]},
    {"prompt": None, "response": "a"},
    {"prompt": "q", "response": ["a"]},
    {"prompt": "q", "response": float("nan")},
    {"prompt": "q", "response": " "},
    {"en": "q", "de": "a"},
)


def lines() -> Iterator[str]:
    """Yield the table's lines, one for each of `ROWS`."""
    for row in ROWS:
        given = f"`{json.dumps(row)}`"
        try:
            (example,) = to_examples([(1, row)], source="data.jsonl")
        except ConfigError as error:
            said = str(error).partition(": set prompt-template")[0]
            yield f"| {given} | refused: {said} | |\n"
            continue
        text = f"`{example.prompt!r}`, `{example.response!r}`" if example.has_text else "none"
        turns = ", ".join(f"{turn['role']} `{turn['content']!r}`" for turn in example.messages)
        yield f"| {given} | {text} | {turns or 'none: trained on as text'} |\n"


@dataclass(frozen=True)
class File:
    """A tiny file or folder of data.

    Attributes
    ----------
    name : str
        What it is called.
    holds : str
        What is in it, for the page.
    write : Callable[[Path], None]
        Writes it.
    """

    name: str
    holds: str
    write: Callable[[Path], None]


_PAIRS: tuple[dict[str, Any], ...] = (
    {"prompt": "q", "response": " a"},
    {"prompt": "1", "response": " 007"},
)
_LINES = "".join(json.dumps(row) + "\n" for row in _PAIRS).encode()
_CSV = b"prompt,response\nq, a\n1, 007\n"


def _bytes(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def _parquet(path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(list(_PAIRS)).to_parquet(str(path))


def _saved(path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(list(_PAIRS)).save_to_disk(str(path))


def _saved_splits(path: Path) -> None:
    import datasets

    splits = {
        "test": datasets.Dataset.from_list([{"prompt": "of the test", "response": " a"}]),
        "train": datasets.Dataset.from_list(list(_PAIRS)),
    }
    datasets.DatasetDict(splits).save_to_disk(str(path))


def _arrow(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _saved(Path(folder))
        (file,) = Path(folder).glob("*.arrow")
        path.write_bytes(file.read_bytes())


def _folder(path: Path) -> None:
    (path / "more").mkdir(parents=True)
    (path / "notes.TXT").write_text("t\n", "utf-8")
    (path / "more" / "pairs.jsonl").write_bytes(_LINES)
    (path / "README.md").write_text("About the data", "utf-8")


FILES = (
    File("pairs.jsonl", "one JSON object a line", _bytes(_LINES)),
    File("pairs.ndjson", "the same, with empty lines", _bytes(_LINES.replace(b"\n", b"\n\n"))),
    File("pairs.json", "one JSON list of objects", _bytes(json.dumps(_PAIRS).encode())),
    File(
        "wrapped.json",
        "a JSON object with one list of objects",
        _bytes(json.dumps({"version": 2, "data": _PAIRS}).encode()),
    ),
    File("lines.json", "one JSON object a line", _bytes(_LINES)),
    File(
        "pairs.csv",
        "a first line with the fields' names, then a row a line; every value is text",
        _bytes(_CSV),
    ),
    File("pairs.tsv", "the same, with tabs", _bytes(_CSV.replace(b",", b"\t"))),
    File("pairs.parquet", "a table", _parquet),
    File("pairs.arrow", "a table", _arrow),
    File("notes.txt", "an example a line; empty lines are skipped", _bytes(b"t\n\nu\n")),
    File("saved", "a folder of `Dataset.save_to_disk`", _saved),
    File(
        "splits",
        "a folder of `DatasetDict.save_to_disk`: its split `train`, or the first one",
        _saved_splits,
    ),
    File("folder", "`notes.TXT`, `more/pairs.jsonl` and `README.md`", _folder),
    File("pairs.jsonl.gz", "lines, compressed", _bytes(gzip.compress(_LINES, mtime=0))),
    File("pairs.csv.bz2", "a table, compressed", _bytes(bz2.compress(_CSV))),
    File("pairs.jsonl.xz", "lines, compressed", _bytes(lzma.compress(_LINES))),
    File("PAIRS.JSONL", "lines", _bytes(_LINES)),
    File("bom.csv", "a table behind a byte order mark", _bytes(codecs.BOM_UTF8 + _CSV)),
    File("latin.txt", "text that is no UTF-8", _bytes("é\n".encode("latin-1"))),
    File(
        "pretty.jsonl",
        "one JSON text over several lines",
        _bytes(json.dumps(_PAIRS, indent=1).encode()),
    ),
    File("empty.jsonl", "nothing", _bytes(b"")),
    File("pairs.xlsx", "a spreadsheet", _bytes(b"PK")),
)


def file_lines() -> Iterator[str]:
    """Yield the lines of the table of files, one for each of `FILES`."""
    for file in FILES:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made).resolve()
            path = folder / file.name
            file.write(path)
            try:
                examples = [
                    example
                    for found in find_files(str(path)).values()
                    for example in read_examples(found)
                ]
                said = "; ".join(f"`{each.prompt!r}`, `{each.response!r}`" for each in examples)
            except ConfigError as error:
                said = f"refused: {error}".replace(f"{folder}/", "")
            name = f"{file.name}/" if path.is_dir() else file.name
            yield f"| `{name}` | {file.holds} | {said} |\n"


def unread() -> list[str]:
    """Return the suffixes that are read, and of which `FILES` has no file."""
    return sorted(FORMATS.keys() - {suffix_of(Path(file.name)) for file in FILES})


def unknown() -> list[tuple[str, ...]]:
    """Return the forms of which `ROWS` has no row."""
    seen = {id(form) for row in ROWS for form in FORMS if form.recognises(row)}
    return [form.fields for form in FORMS if id(form) not in seen]


def page(text: str) -> str:
    """Return the page with the tables of today.

    Raises
    ------
    ValueError
        A mark is not there.
    """
    text = _with_table(text, MARK, HEAD, lines())
    return _with_table(text, FILE_MARK, FILE_HEAD, file_lines())


def _with_table(text: str, mark: str, head: str, rows: Iterator[str]) -> str:
    before, found, rest = text.partition(mark)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"there is no block {mark.strip()}")
    return f"{before}{mark}\n{head}{''.join(rows)}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
