"""Reads prompts with their private spans."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from floe_plugins.errors import FloeError

# Keys under which the data of different makers hold the same thing.
_TEXTS = ("text", "prompt", "source_text", "full_text")
_SPANS = ("spans", "entities", "privacy_mask", "labels")
_LABELS = ("type", "label", "entity_type", "entity")
_STARTS = ("start", "start_position", "begin", "start_offset")
_ENDS = ("end", "end_position", "end_offset")


_ACCEPTED = "'text' and 'spans', a list of objects with 'type', 'start' and 'end'"
_T = TypeVar("_T")


class DataError(FloeError):
    """A file does not hold prompts with spans."""


@dataclass(frozen=True)
class Prompt:
    """A prompt, and its private spans: begin, end and class of each, in characters."""

    text: str
    spans: tuple[tuple[int, int, str], ...]


def read_prompts(path: Path) -> list[Prompt]:
    """Read a JSONL file with one prompt per line; at least one.

    Each line is an object with ``text`` and ``spans``, a list of objects with ``type``, ``start``
    and ``end``. Some other names of these keys are known too.
    """
    prompts = [_parsed(path, number, line, _prompt, _ACCEPTED) for number, line in _lines(path)]
    if not prompts:
        raise DataError(f"{path} holds no prompts; accepted is one JSON object per line.")
    return prompts


def read_benign(path: Path) -> dict[str, list[str]]:
    """Read a JSONL file of ordinary texts, by their ``source``; those without one are "other"."""
    texts: dict[str, list[str]] = {}
    for number, line in _lines(path):
        source, text = _parsed(path, number, line, _sourced, "'text' and 'source'")
        texts.setdefault(source, []).append(text)
    if not texts:
        raise DataError(f"{path} holds no prompts; accepted is one JSON object per line.")
    return texts


def _sourced(line: Any) -> tuple[str, str]:
    text = _value(line, (*_TEXTS, "question"))
    if not isinstance(text, str):
        raise TypeError("its text is no string")
    return str(line.get("source", "other")), text


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines that are not empty, with their numbers."""
    try:
        # Not splitlines(): JSON strings may hold U+2028 as it is.
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _parsed(path: Path, number: int, line: str, parse: Callable[[Any], _T], accepted: str) -> _T:
    try:
        return parse(json.loads(line))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"Line {number} of {path} holds no prompt ({error}); accepted is an object with "
            f"{accepted}."
        ) from error


def _prompt(line: Any) -> Prompt:
    text = _value(line, _TEXTS)
    spans = _value(line, _SPANS) or ()
    if isinstance(spans, str):
        spans = json.loads(spans)
    if not isinstance(text, str):
        raise TypeError("its text is no string")
    return Prompt(text, tuple(_span(span, len(text)) for span in spans))


def _span(span: Any, length: int) -> tuple[int, int, str]:
    if isinstance(span, list):
        start, end, label = span
    else:
        start, end, label = (_value(span, names) for names in (_STARTS, _ENDS, _LABELS))
    if not 0 <= int(start) < int(end) <= length:
        raise ValueError(f"the span from {start} to {end} is not within the text")
    return int(start), int(end), str(label)


def _value(holder: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        if name in holder:
            return holder[name]
    raise KeyError(names[0])
