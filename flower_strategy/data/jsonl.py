"""Examples from JSONL files."""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError
from flower_strategy.data.examples import Example

_KINDS = {
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True)
class Template:
    """How a row becomes an example.

    Attributes
    ----------
    prompt : str
        Format string over the row's fields.
    response : str
        Format string over the row's fields.
    """

    prompt: str
    response: str

    @cached_property
    def fields(self) -> frozenset[str]:
        """The fields that both strings name."""
        parts = (*string.Formatter().parse(self.prompt), *string.Formatter().parse(self.response))
        return frozenset(name for _, name, _, _ in parts if name)

    def fill(self, row: Mapping[str, Any]) -> Example:
        """Return the row's example.

        Raises
        ------
        ValueError
            A field is missing, holds neither text nor a number, does not fit the template, or the
            response is empty; the message is one phrase.
        """
        missing = self.fields - row.keys()
        if missing:
            raise ValueError(
                f"no field {', '.join(sorted(missing))}; the row has {', '.join(row) or 'none'}"
            )
        for name in sorted(self.fields):
            value = row[name]
            # bool is an int for Python: "True" is what it calls it, not what the file says.
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                raise ValueError(
                    f"the field {name} holds {_KINDS.get(type(value), type(value).__name__)}; text "
                    "or a number is needed"
                )
        try:
            example = Example(
                self.prompt.format_map(row),
                self.response.format_map(row),
                row=hashlib.sha256(json.dumps(row, sort_keys=True).encode()).digest()[:16],
            )
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise ValueError(f"the template does not fit the row ({error})") from error
        if not example.response.strip():
            raise ValueError("the response is empty")
        try:
            example.text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"its text has {example.text[error.start]!r}, half of a character, which no "
                "tokenizer takes"
            ) from error
        return example


FILE_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
"""Suffixes of the files that are read, one JSON object a line."""

OTHER_SUFFIXES = frozenset(
    {".arrow", ".csv", ".gz", ".parquet", ".tsv", ".txt", ".xlsx", ".xz", ".zip", ".zst"}
)
"""Suffixes of files that hold data in another form: their names are no hub data sets' ids."""

# Tried in order; the first whose fields a file's first row has is taken for the whole file.
KNOWN_TEMPLATES = (
    Template("{prompt}", "{response}"),
    Template("{prompt}", "{completion}"),
    Template("{instruction}\n{input}\nResponse:", " {output}"),
    Template("{instruction}\nResponse:", " {output}"),
    Template("Context: {context}\nQuestion: {question}\nAnswer:", " {answer}. {long_answer}"),
    Template("Context: {context}\nQuestion: {question}\nAnswer:", " {answer}"),
    Template("Question: {question}\nAnswer:", " {answer}"),
    Template("", "{text}"),
)


def custom_template(prompt: str, response: str) -> Template | None:
    """Return the run configuration's template, None when it gives none.

    Raises
    ------
    ConfigError
        A template is no format string over named fields.
    """
    if not prompt and not response:
        return None
    template = Template(prompt.replace("\\n", "\n"), response.replace("\\n", "\n"))
    try:
        names = template.fields
    except ValueError as error:
        raise ConfigError(
            f"prompt-template {prompt!r} or response-template {response!r} is no template: {error}."
        ) from error
    if not all(name.isidentifier() for name in names):
        raise ConfigError(
            f"prompt-template and response-template may name fields only, got {sorted(names)}."
        )
    return template


def find_files(data: str, *, key: str = "Run configuration data") -> dict[str, Path]:
    """Return task name -> file for comma-separated files and folders.

    Parameters
    ----------
    data : str
        The files and folders; of a folder the files ``*.jsonl`` count.
    key : str, optional
        What error messages call `data`.

    Raises
    ------
    ConfigError
        A path does not exist, is of another kind, or a folder has no JSONL file, or two files have
        one name; the message gives the absolute path that was tried.
    """
    files: dict[str, Path] = {}
    for item in (part.strip() for part in data.split(",")):
        if not item:
            continue
        path = Path(item).expanduser().absolute()
        try:
            found = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
            there = path.exists()
        except OSError as error:
            raise ConfigError(f"{key}={item!r} cannot be looked at: {error}.") from error
        if not there:
            raise ConfigError(
                f"{key}={item!r} does not exist: tried {path.resolve()}. Give "
                "'embedded', a JSONL file or folder, or a hub data set's id; a relative path "
                f"counts from the folder in which {_started_from(key)}."
            )
        if not found:
            raise ConfigError(f"{key}={item!r} is a folder without .jsonl files: {path.resolve()}.")
        for file in found:
            if file.suffix.lower() not in FILE_SUFFIXES:
                raise ConfigError(
                    f"{key}={item!r} is a file of another kind ({file.suffix or 'no suffix'}): "
                    "JSONL is read, one JSON object a line, from files that end in "
                    f"{', '.join(sorted(FILE_SUFFIXES))}."
                )
            if file.stem in files:
                raise ConfigError(
                    f"{key}={data!r} names two files called {file.stem!r}; every "
                    "file is one task and needs a name of its own."
                )
            files[file.stem] = file
    if not files:
        raise ConfigError(f"{key}={data!r} names no file.")
    return files


def _started_from(key: str) -> str:
    if key.startswith("--node-config"):
        return "the SuperNode was started"
    return "the local SuperLink was started, the one of the first 'flwr run'"


def read_examples(path: Path, *, template: Template | None = None) -> list[Example]:
    """Read one JSONL file.

    Parameters
    ----------
    path : Path
        One JSON object a line; empty lines are skipped, and a byte order mark at its beginning.
    template : Template, optional
        How a row becomes an example; without one the fields are recognised.

    Raises
    ------
    ConfigError
        The file cannot be read, a line is no JSON object, lacks a field or holds something else
        than text in it; the message gives file and line.
    """
    rows: list[tuple[int, Mapping[str, Any]]] = []
    try:
        # Not splitlines(): JSON strings may hold U+2028 as it is.
        lines = path.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no UTF-8 ({error}): write it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        # Not JSON; a number of thousands of digits; objects in objects without end.
        except (ValueError, RecursionError) as error:
            raise ConfigError(_no_json(path, number, line, error)) from error
        if not isinstance(row, dict):
            raise ConfigError(
                f"{path}, line {number}: a JSON object is needed, got "
                f"{_KINDS.get(type(row), type(row).__name__)}."
            )
        rows.append((number, row))
    if not rows:
        raise ConfigError(f"{path} holds no examples.")
    return to_examples(rows, source=str(path), template=template)


def _no_json(path: Path, number: int, line: str, error: Exception) -> str:
    if number == 1 and line.strip() in {"[", "{"}:
        return (
            f"{path} is one JSON text over several lines: JSONL is needed, one object a line, "
            "without brackets or commas around them."
        )
    return f"{path}, line {number}: no JSON ({error})."


def to_examples(
    rows: Sequence[tuple[int, Mapping[str, Any]]], *, source: str, template: Template | None
) -> list[Example]:
    """Turn numbered rows into examples; see `read_examples`."""
    template = template or _recognise(rows[0][1], source)
    examples = []
    for number, row in rows:
        try:
            examples.append(template.fill(row))
        except ValueError as error:
            raise ConfigError(f"{source}, line {number}: {error}.") from error
    return examples


def _recognise(row: Mapping[str, Any], source: str) -> Template:
    for template in KNOWN_TEMPLATES:
        if template.fields <= row.keys():
            return template
    known = "; ".join(", ".join(sorted(template.fields)) for template in KNOWN_TEMPLATES)
    raise ConfigError(
        f"{source} has the fields {', '.join(row) or 'none'}, which are not recognised: set "
        f"prompt-template and response-template, or use one of these sets of fields: {known}."
    )
