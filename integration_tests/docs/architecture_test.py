"""The files and functions in the walks of the architecture page exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "explanation" / "architecture.md").read_text("utf-8")
GLOSSARY = (ROOT / "docs" / "reference" / "glossary.md").read_text("utf-8")

_STEP = re.compile(r"^(\d+)\. (`[\w/]+\.py`: .*?)(?=^\d+\. |^## |\Z)", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`([\w/]+\.py)`")
_FUNCTION = re.compile(r"`([\w.]+)\(\)`")


def walks() -> dict[str, list[str]]:
    """Return the steps of each walk by its title."""
    parts = PAGE.split("\n## ")[1:]
    return {part.partition("\n")[0]: [step for _, step in _STEP.findall(part)] for part in parts}


WALKS = walks()


def defined(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Yield the functions of a module, and the methods of its classes as ``Class.method``."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + statement.name
        elif isinstance(statement, ast.ClassDef):
            yield from defined(statement.body, f"{prefix}{statement.name}.")


def test_there_are_three_walks_of_numbered_steps() -> None:
    assert len(WALKS) == 3
    for part in PAGE.split("\n## ")[1:]:
        numbers = [int(number) for number in re.findall(r"^(\d+)\. ", part, re.MULTILINE)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) == len(WALKS[part.partition("\n")[0]]) > 5


@pytest.mark.parametrize(
    "step",
    [step for steps in WALKS.values() for step in steps],
    ids=lambda step: step.split("`")[1],
)
def test_the_file_and_the_functions_of_a_step_are_there(step: str) -> None:
    file, *others = _FILE.findall(step)
    functions = _FUNCTION.findall(step)
    assert functions, step
    assert all((ROOT / other).is_file() for other in others), others
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    assert set(functions) <= set(defined(tree.body)), file


def test_the_glossary_is_short_and_in_order() -> None:
    terms = re.findall(r"^\| ([a-z][\w -]*) \| (.+) \|$", GLOSSARY, re.MULTILINE)[1:]
    names = [term for term, _ in terms]
    assert len(names) <= 25
    assert names == sorted(names)
    assert all(meaning.count(". ") == 0 and meaning.endswith(".") for _, meaning in terms)
