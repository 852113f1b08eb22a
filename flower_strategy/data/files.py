"""Reading the files of training data, whatever their format; the library `datasets` does it."""

from __future__ import annotations

import csv
import functools
import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floe_plugins.errors import ConfigError, first_line
from flower_strategy.data.forms import Row

if TYPE_CHECKING:
    from datasets import IterableDataset

Rows = Iterator[tuple[int, Row]]

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_SAVED = ("dataset_info.json", "dataset_dict.json")
"""What `Dataset.save_to_disk` and that of a `DatasetDict` leave in a folder."""


def find_files(data: str, *, key: str = "Run configuration data") -> dict[str, Path]:
    """Return task name -> file for comma-separated files and folders.

    A folder stands for every file in it, at any depth, that is of a format that is read; one that
    ``save_to_disk`` wrote is one task. A task is called as its file without the suffix; where
    two files have one name, their folders' names tell them apart.

    Parameters
    ----------
    data : str
        The files and folders.
    key : str, optional
        What error messages call `data`.

    Raises
    ------
    ConfigError
        A path does not exist, is of another format, or a folder has no file to read, or one file
        is named twice; the message gives the absolute path that was tried.
    """
    found: list[Path] = []
    for item in (part.strip() for part in data.split(",")):
        if item:
            found += _files_of(item, key=key)
    if not found:
        raise ConfigError(f"{key}={data!r} names no file.")
    if len(set(found)) < len(found):
        twice = next(path for path in found if found.count(path) > 1)
        raise ConfigError(f"{key}={data!r} names the file {twice} twice; every file is one task.")
    return _named(found)


def _files_of(item: str, *, key: str) -> list[Path]:
    path = Path(item).expanduser().absolute()
    try:
        there, is_folder = path.exists(), path.is_dir()
        found = _in_folder(path) if is_folder else [path]
    except OSError as error:
        raise ConfigError(f"{key}={item!r} cannot be looked at: {error}.") from error
    if not there:
        raise ConfigError(
            f"{key}={item!r} does not exist: tried {path.resolve()}. Give "
            "'embedded', a file or folder of data, or a hub data set's id; a relative path "
            f"counts from the folder in which {_started_from(key)}."
        )
    if not found:
        raise ConfigError(
            f"{key}={item!r} is a folder without files of data: {path.resolve()} has none that "
            f"ends in {', '.join(sorted(FORMATS))}."
        )
    if not is_folder and suffix_of(path) not in FORMATS:
        raise ConfigError(
            f"{key}={item!r} is a file of another kind ({path.suffix or 'no suffix'}): read are "
            f"{', '.join(sorted(FORMATS))}, also compressed ({', '.join(_COMPRESSED)})."
        )
    return found


def _in_folder(folder: Path) -> list[Path]:
    if any((folder / name).is_file() for name in _SAVED):
        return [folder]
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        # Hidden files and folders belong to programs: .git, .cache, .DS_Store.
        if path.name.startswith("."):
            continue
        if path.is_dir():
            found += _in_folder(path)
        elif suffix_of(path) in FORMATS:
            found.append(path)
    return found


def _started_from(key: str) -> str:
    if key.startswith("--node-config"):
        return "the SuperNode was started"
    return "the local SuperLink was started, the one of the first 'flwr run'"


def suffix_of(path: Path) -> str:
    """Return what says a file's format: its last suffix in lower case, compression left aside."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_file_name(name: str) -> bool:
    """Tell whether a name ends as files of data do, read here or not: no hub data set's id does."""
    return suffix_of(Path(name)) in {*FORMATS, ".xlsx", ".zip"} or name.endswith(_COMPRESSED)


def _stem(path: Path) -> str:
    name = path.name
    if Path(name).suffix.lower() in _COMPRESSED:
        name = Path(name).stem
    return name if path.is_dir() else Path(name).stem


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Give each file the shortest name that it shares with none: stem, name, folders before."""
    wanted = {
        path: [
            _stem(path),
            *("/".join(path.parts[-depth:]) for depth in range(1, len(path.parts))),
        ]
        for path in paths
    }
    uses = Counter(name for names in wanted.values() for name in set(names))
    return {
        next((name for name in names if uses[name] == 1), str(path)): path
        for path, names in wanted.items()
    }


Load = Callable[..., "IterableDataset"]
"""Loads one file by `datasets`, with options of its builder."""


def _tables(builder: str) -> Callable[[Load], Rows]:
    """Return the reader of a format that holds rows and knows no lines."""
    return lambda load: enumerate(load(builder), 1)


def _csv(separator: str) -> Callable[[Load], Rows]:
    def rows(load: Load) -> Rows:
        import datasets

        options = {"sep": separator, "index_col": False, "keep_default_na": False, **_UTF8}
        if separator == "\t":
            # Tabs cannot stand in its cells, so a quote is a quote.
            options["quoting"] = csv.QUOTE_NONE
        first = next(iter(load("csv", **options)), None)
        if first is not None:
            # Without types for the columns, "007" would be the number 7.
            texts = datasets.Features({name: datasets.Value("string") for name in first})
            # Line 1 holds the fields' names.
            yield from enumerate(_whole(load("csv", features=texts, **options)), 2)

    return rows


def _whole(rows: Iterable[Row]) -> Iterator[Row]:
    """Refuse a row with more cells than there are fields, of which pandas would drop the rest."""
    pulled = iter(rows)
    while True:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Length of header or names does not match")
            row = next(pulled, None)
        if row is None:
            return
        yield row


def _text(load: Load) -> Rows:
    for number, row in enumerate(load("text", **_UTF8), 1):
        if row["text"].strip():
            yield number, row


def _json_lines(load: Load) -> Rows:
    # The builder "json" would make dates of some texts, and names no lines.
    lines = (row["text"] for row in load("text", **_UTF8))
    return _parsed_lines(lines)


def _parsed_lines(lines: Iterable[str]) -> Rows:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        # Not JSON; a number of thousands of digits; objects in objects without end.
        except (ValueError, RecursionError) as error:
            if number == 1 and line.strip() in {"[", "{"}:
                raise UnreadableError(
                    "it is one JSON text over several lines: give it the suffix .json, or write "
                    "one object a line"
                ) from error
            raise UnreadableError(f"no JSON ({first_line(error)})", line=number) from error
        yield number, _object(row, number)


def _json(load: Load) -> Rows:
    """Read a file that is one list of objects, an object with one such list, or JSON lines."""
    text = "".join(row["text"] for row in load("text", sample_by="document", **_UTF8))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        # Not splitlines(): JSON strings may hold U+2028 as it is.
        yield from _parsed_lines(text.split("\n"))
        return
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 and _of_objects(lists[0]) else [content]
    if not isinstance(content, list):
        content = [content]
    for number, row in enumerate(content, 1):
        yield number, _object(row, number)


def _of_objects(values: list[Any]) -> bool:
    # {"messages": [...]} is one row: what it lists are messages.
    return bool(values) and all(
        isinstance(value, dict) and not ({"role", "from"} & value.keys()) for value in values
    )


def _object(row: Any, number: int) -> Row:
    if isinstance(row, dict):
        return row
    kind = "a list" if isinstance(row, list) else type(row).__name__
    raise UnreadableError(f"a JSON object is needed, got {kind}", line=number)


class UnreadableError(ValueError):
    """What is wrong with a file, as a phrase, and in which line."""

    def __init__(self, what: str, *, line: int | None = None) -> None:
        super().__init__(what)
        self.line = line


_UTF8 = {"encoding": "utf-8-sig"}

FORMATS: Mapping[str, Callable[[Load], Rows]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv(","),
    ".tsv": _csv("\t"),
    ".parquet": _tables("parquet"),
    ".arrow": _tables("arrow"),
    ".txt": _text,
}
"""Suffix -> how it is read. A line of a text file is one example."""


def read_rows(path: Path) -> Rows:
    """Yield a file's rows with the numbers of their lines; nothing but one piece is in memory.

    Parameters
    ----------
    path : Path
        A file of one of `FORMATS`, or a folder that `Dataset.save_to_disk` wrote. Empty lines are
        skipped, and a byte order mark at its beginning.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds no rows; the message gives file and line.
    """
    rows = 0
    try:
        for number, row in _read(path):
            rows += 1
            yield number, row
    except UnreadableError as error:
        where = f"{path}, line {error.line}" if error.line else f"{path} cannot be read"
        raise ConfigError(f"{where}: {error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no UTF-8 ({error}): write it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    # Damaged tables and archives: pandas, pyarrow and zlib each raise classes of their own.
    except Exception as error:
        raise ConfigError(f"{path} cannot be read: {first_line(error)}.") from error
    if not rows:
        raise ConfigError(f"{path} holds no examples.")


def _read(path: Path) -> Rows:
    import datasets

    # It would tell a server of every file that is opened, and wait for it where none is reached.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    if path.is_dir():
        saved = datasets.load_from_disk(str(path))
        if isinstance(saved, datasets.DatasetDict):
            saved = saved["train"] if "train" in saved else next(iter(saved.values()))
        yield from enumerate(saved, 1)
        return
    if path.stat().st_size == 0:
        return
    # Streaming: what it would write otherwise is a copy of private text in a cache folder. Its own
    # folder, of locks alone, may be where nothing can be written.
    with tempfile.TemporaryDirectory(prefix="floe-data-") as folder:
        load = functools.partial(
            datasets.load_dataset,
            data_files=str(path),
            split="train",
            streaming=True,
            cache_dir=folder,
        )
        yield from FORMATS[suffix_of(path)](load)
