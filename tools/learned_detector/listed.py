"""Reads the lists and templates of training texts."""

import functools
from importlib import resources


def lines_of(name: str) -> list[str]:
    """Return the lines of a file in ``texts/`` that are neither empty nor comments."""
    folder = resources.files("tools.learned_detector").joinpath("texts")
    lines = folder.joinpath(name).read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("# ")]


@functools.cache
def listed(name: str) -> dict[str, tuple[str, ...]]:
    """Return the lists of a file whose lines are ``kind: item|item``, by kind."""
    lists = {}
    for line in lines_of(name):
        kind, _, items = line.partition(": ")
        lists[kind] = tuple(item.replace("\\n", "\n") for item in items.split("|"))
    return lists
