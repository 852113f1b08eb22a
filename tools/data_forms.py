"""Writes what becomes of each form of training data, on ``docs/reference/data.md``.

``python -m tools.data_forms`` makes an example of a row of every form, and puts what came of it
between the page's marks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError
from flower_strategy.data.forms import FORMS, to_examples

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "data.md"
MARKS = "<!-- forms -->\n", "<!-- end -->\n"
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


def unknown() -> list[tuple[str, ...]]:
    """Return the forms of which `ROWS` has no row."""
    seen = {id(form) for row in ROWS for form in FORMS if form.recognises(row)}
    return [form.fields for form in FORMS if id(form) not in seen]


def page(text: str) -> str:
    """Return the page with the table of today.

    Raises
    ------
    ValueError
        A mark is not there.
    """
    start, end = MARKS
    before, found, rest = text.partition(start)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError("there is no block of forms")
    return f"{before}{start}\n{HEAD}{''.join(lines())}\n{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
