import bz2
import codecs
import gzip
import json
import lzma
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from floe_plugins.errors import ConfigError
from flower_strategy.data.files import find_files, read_rows

ROWS = [{"prompt": "2020-01-01", "response": "007"}, {"prompt": "a\u2028b", "response": "NA"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = "prompt,response\n2020-01-01,007\na\u2028b,NA\n"


def saved(path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(path))


def parquet(path: Path) -> None:
    import pyarrow
    from pyarrow import parquet as format

    format.write_table(pyarrow.Table.from_pylist(ROWS), path)


def arrow(path: Path) -> None:
    import pyarrow

    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)


def of_bytes(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


FORMS: dict[str, Callable[[Path], Any]] = {
    "rows.jsonl": of_bytes(LINES.encode()),
    "ROWS.JSONL": of_bytes(LINES.encode()),
    "rows.ndjson": of_bytes(LINES.replace("\n", "\r\n").encode()),
    "bom.jsonl": of_bytes(codecs.BOM_UTF8 + LINES.encode()),
    "empty lines.jsonl": of_bytes(LINES.replace("\n", "\n\n").encode()),
    "list.json": of_bytes(json.dumps(ROWS, indent=1).encode()),
    "lines.json": of_bytes(LINES.encode()),
    "wrapped.json": of_bytes(json.dumps({"version": 2, "data": ROWS}).encode()),
    "rows.jsonl.gz": of_bytes(gzip.compress(LINES.encode())),
    "rows.jsonl.bz2": of_bytes(bz2.compress(LINES.encode())),
    "rows.jsonl.xz": of_bytes(lzma.compress(LINES.encode())),
    "rows.csv": of_bytes(TABLE.encode()),
    "bom.csv": of_bytes(codecs.BOM_UTF8 + TABLE.encode()),
    "rows.csv.gz": of_bytes(gzip.compress(TABLE.encode())),
    "rows.tsv": of_bytes(TABLE.replace(",", "\t").encode()),
    "rows.parquet": parquet,
    "rows.arrow": arrow,
    "saved": saved,
}


@pytest.mark.parametrize("name", FORMS)
def test_all_formats_give_the_same_texts(tmp_path: Path, name: str) -> None:
    """No format makes a date, a number or nothing of what is text."""
    path = tmp_path / name
    FORMS[name](path)
    assert [dict(row) for _, row in read_rows(path)] == ROWS
    assert list(find_files(str(tmp_path)).values()) == [path]


def test_of_saved_splits_the_one_to_train_on_is_read(tmp_path: Path) -> None:
    import datasets

    of_the_test = datasets.Dataset.from_list([{"prompt": "of the test", "response": "a"}])
    splits = {"test": of_the_test, "train": datasets.Dataset.from_list(ROWS)}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    assert find_files(str(tmp_path)) == {"saved": tmp_path / "saved"}
    assert [dict(row) for _, row in read_rows(tmp_path / "saved")] == ROWS


def test_a_line_of_a_text_file_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("one\n\n  \ntwo\n", "utf-8")
    assert list(read_rows(path)) == [(1, {"text": "one"}), (4, {"text": "two"})]


def test_one_conversation_in_a_json_file_is_one_row(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "one.json").write_text(json.dumps(row), "utf-8")
    assert list(read_rows(tmp_path / "one.json")) == [(1, row)]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": ', "a.jsonl, line 2: no JSON"),
        ("a.jsonl", b'{"prompt": "a"}\n\n["a"]', "line 3: a JSON object is needed, got a list"),
        ("a.jsonl", b"[\n{}\n]", "is one JSON text over several lines: give it the suffix .json"),
        ("a.jsonl", b"\n \n", "holds no examples"),
        ("a.jsonl", b"", "holds no examples"),
        ("a.jsonl", '{"prompt": "é"}'.encode("latin-1"), "is no UTF-8"),
        ("a.json", b'[1, {"prompt": "a"}]', "line 1: a JSON object is needed, got int"),
        ("a.csv", b"prompt,response\na,b,c\n", "Length of header"),
        ("a.csv", b"prompt,response\n", "holds no examples"),
        ("a.parquet", b"PAR1 nothing", "cannot be read: "),
        ("a.jsonl.gz", b"\x1f\x8b\x08 nothing", "cannot be read: "),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=complaint) as caught:
        list(read_rows(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_large_file_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    line = "x" * 999 + "\n"
    with path.open("w") as file:
        for _ in range(200):
            file.write(line * 1000)
    next(iter(read_rows(path)))
    tracemalloc.start()
    count = sum(1 for _ in read_rows(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 200_000
    assert peak < path.stat().st_size / 3


@pytest.mark.parametrize("name", ["own.jsonl", "own.jsonl.gz", "own.csv", "own.parquet"])
def test_nothing_is_written_beside_or_into_a_cache_and_nobody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import datasets
    import huggingface_hub.utils
    import pyarrow
    import pyarrow.parquet

    called: list[object] = []
    for place in (datasets.load, huggingface_hub.utils):
        if hasattr(place, "get_session"):
            monkeypatch.setattr(place, "get_session", lambda: called.append(1))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / name
    text = '{"text": "private words"}\n' if "jsonl" in name else "text\nprivate words\n"
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    elif name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.table({"text": ["private words"]}), path)
    else:
        path.write_text(text, "utf-8")
    assert [row["text"] for _, row in read_rows(path)] == ["private words"]
    written = [each for each in tmp_path.rglob("*") if each.is_file() and each.stat().st_size]
    assert written == [path]
    assert not called


def test_a_folder_stands_for_all_its_files(tmp_path: Path) -> None:
    for name in (
        "b/one.jsonl",
        "b/c/TWO.CSV",
        "one.jsonl",
        "read me.md",
        ".git/x.json",
        "b/one.csv",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x", "utf-8")
    assert find_files(str(tmp_path)) == {
        "one.csv": tmp_path / "b/one.csv",
        "b/one.jsonl": tmp_path / "b/one.jsonl",
        "TWO": tmp_path / "b/c/TWO.CSV",
        f"{tmp_path.name}/one.jsonl": tmp_path / "one.jsonl",
    }


def test_what_names_no_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ConfigError, match=r"without files of data: .* has none that ends in .arrow"
    ):
        find_files(str(tmp_path / "empty"))
    (tmp_path / "a.xlsx").write_text("x", "utf-8")
    with pytest.raises(ConfigError, match=r"another kind \(.xlsx\): read are .arrow, .csv"):
        find_files(str(tmp_path / "a.xlsx"))
    (tmp_path / "a.txt").write_text("x", "utf-8")
    with pytest.raises(ConfigError, match=r"names the file .*a.txt twice"):
        find_files(f"{tmp_path / 'a.txt'},{tmp_path / 'a.txt'}")


def test_a_quote_in_a_table_of_tabs_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('prompt\tresponse\n"He said\tok\nnext\tfine\n', "utf-8")
    assert list(read_rows(path)) == [
        (2, {"prompt": '"He said', "response": "ok"}),
        (3, {"prompt": "next", "response": "fine"}),
    ]
