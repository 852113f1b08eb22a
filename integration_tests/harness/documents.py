"""The code blocks of a Markdown page, by what the page calls them."""

from __future__ import annotations

from pathlib import Path

from integration_tests.harness.markdown import blocks_of


def named_blocks(page: Path) -> dict[str, str]:
    """Return the code blocks under ``<!-- test: NAME -->`` comments, by name."""
    return {block.value: block.code for block in blocks_of(page) if block.kind == "test"}


def titled_blocks(page: Path) -> dict[str, str]:
    """Return the code blocks with a title, the name of the file that they are, by title."""
    return {block.title: block.code for block in blocks_of(page) if block.title}


def shell_blocks(page: Path) -> int:
    """Return how many blocks of the page are ``bash`` to be typed: those with a title are files."""
    return sum(block.language == "bash" and not block.title for block in blocks_of(page))
