"""Examples from JSONL files."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError
from flower_strategy.data.examples import Example


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

    @property
    def fields(self) -> frozenset[str]:
        """The fields that both strings name."""
        parts = (*string.Formatter().parse(self.prompt), *string.Formatter().parse(self.response))
        return frozenset(name for _, name, _, _ in parts if name)

    def fill(self, row: Mapping[str, Any]) -> Example:
        """Return the row's example."""
        return Example(self.prompt.format_map(row), self.response.format_map(row))


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


def find_files(data: str) -> dict[str, Path]:
    """Return task name -> file for comma-separated files and folders.

    Raises
    ------
    ConfigError
        A path does not exist, a folder has no JSONL file, or two files have one name; the
        message gives the absolute path that was tried.
    """
    files: dict[str, Path] = {}
    for item in (part.strip() for part in data.split(",")):
        if not item:
            continue
        path = Path(item).expanduser().absolute()
        if path.is_dir():
            found = sorted(path.glob("*.jsonl"))
        elif path.is_file():
            found = [path]
        else:
            raise ConfigError(
                f"Run configuration data={item!r} does not exist: tried {path.resolve()}. Give "
                "'embedded', a JSONL file or folder, or a hub data set's id; a relative path "
                "counts from the folder in which the local SuperLink was started, the one of the "
                "first 'flwr run'."
            )
        if not found:
            raise ConfigError(
                f"Run configuration data={item!r} is a folder without .jsonl files: "
                f"{path.resolve()}."
            )
        for file in found:
            if file.stem in files:
                raise ConfigError(
                    f"Run configuration data={data!r} names two files called {file.stem!r}; every "
                    "file is one task and needs a name of its own."
                )
            files[file.stem] = file
    if not files:
        raise ConfigError(f"Run configuration data={data!r} names no file.")
    return files


def read_examples(path: Path, *, template: Template | None = None) -> list[Example]:
    """Read one JSONL file.

    Parameters
    ----------
    path : Path
        One JSON object a line; empty lines are skipped.
    template : Template, optional
        How a row becomes an example; without one the fields are recognised.

    Raises
    ------
    ConfigError
        A line is no JSON object, or lacks a field; the message gives file and line.
    """
    rows: list[tuple[int, Mapping[str, Any]]] = []
    try:
        # Not splitlines(): JSON strings may hold U+2028 as it is.
        lines = path.read_text("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no UTF-8 ({error}): write it as UTF-8.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}, line {number}: no JSON ({error}).") from error
        if not isinstance(row, dict):
            raise ConfigError(
                f"{path}, line {number}: a JSON object is needed, got {type(row).__name__}."
            )
        rows.append((number, row))
    if not rows:
        raise ConfigError(f"{path} holds no examples.")
    return to_examples(rows, source=str(path), template=template)


def to_examples(
    rows: Sequence[tuple[int, Mapping[str, Any]]], *, source: str, template: Template | None
) -> list[Example]:
    """Turn numbered rows into examples; see `read_examples`."""
    template = template or _recognise(rows[0][1], source)
    examples = []
    for number, row in rows:
        missing = template.fields - row.keys()
        if missing:
            raise ConfigError(
                f"{source}, line {number}: no field {', '.join(sorted(missing))}; the row has "
                f"{', '.join(row)}."
            )
        example = template.fill(row)
        if not example.response.strip():
            raise ConfigError(f"{source}, line {number}: the response is empty.")
        examples.append(example)
    return examples


def _recognise(row: Mapping[str, Any], source: str) -> Template:
    for template in KNOWN_TEMPLATES:
        if template.fields <= row.keys():
            return template
    known = "; ".join(", ".join(sorted(template.fields)) for template in KNOWN_TEMPLATES)
    raise ConfigError(
        f"{source} has the fields {', '.join(row)}, which are not recognised: set prompt-template "
        f"and response-template, or use one of these sets of fields: {known}."
    )
