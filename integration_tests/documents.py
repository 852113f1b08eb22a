"""The code blocks of a Markdown page, by the name in the comment above each."""

from __future__ import annotations

import re
from pathlib import Path

_BLOCK = re.compile(r"<!-- test: (?P<name>[\w-]+) -->\n+```\w*\n(?P<code>.*?)```", re.DOTALL)
_TITLED = re.compile(r'```\w+ title="(?P<name>[^"]+)"\n(?P<code>.*?)```', re.DOTALL)
_ANY_BLOCK = re.compile(r"^```(\w+)\n", re.MULTILINE)


def named_blocks(page: Path) -> dict[str, str]:
    """Return the code blocks under ``<!-- test: NAME -->`` comments, by name."""
    return {match["name"]: match["code"] for match in _BLOCK.finditer(page.read_text("utf-8"))}


def titled_blocks(page: Path) -> dict[str, str]:
    """Return the code blocks with a title, the name of the file that they are, by title."""
    return {match["name"]: match["code"] for match in _TITLED.finditer(page.read_text("utf-8"))}


def shell_blocks(page: Path) -> int:
    """Return how many blocks of the page are marked as ``bash``."""
    return _ANY_BLOCK.findall(page.read_text("utf-8")).count("bash")
