"""The fenced code blocks of a Markdown page, with what the page says about them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?[^\n]*\n"
    r"(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_MARKER = re.compile(r"<!-- (?P<kind>test|needs|shown-by|output):? ?(?P<value>[^>]*?) ?-->\s*\Z")


@dataclass(frozen=True)
class Block:
    """One code block.

    Attributes
    ----------
    page : Path
    line : int
        Line of the opening fence, from 1.
    language, code : str
    title : str
        The name of the file that it is, or empty.
    kind, value : str
        Of the comment right above it: ``test``, ``needs``, ``shown-by`` or ``output``; empty
        without one.
    """

    page: Path
    line: int
    language: str
    code: str
    title: str = ""
    kind: str = ""
    value: str = ""

    @property
    def place(self) -> str:
        """Its place, for messages."""
        return f"{self.page.name}, line {self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a shell block, as words; comments and prompts left out."""
        joined = self.code.replace("\\\n", " ")
        return [
            words for line in joined.splitlines() if (words := shlex.split(line, comments=True))
        ]


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page in order."""
    text = page.read_text("utf-8")
    found = []
    for match in _FENCE.finditer(text):
        marker = _MARKER.search(text[: match.start()])
        found.append(
            Block(
                page=page,
                line=text.count("\n", 0, match.start()) + 1,
                language=match["language"],
                code=match["code"],
                title=match["title"] or "",
                kind=marker["kind"] if marker else "",
                value=marker["value"] if marker else "",
            )
        )
    return found


def named_blocks(page: Path) -> dict[str, str]:
    """Return the code blocks under ``<!-- test: NAME -->`` comments, by name."""
    return {block.value: block.code for block in blocks_of(page) if block.kind == "test"}


def titled_blocks(page: Path) -> dict[str, str]:
    """Return the code blocks with a title, the name of the file that they are, by title."""
    return {block.title: block.code for block in blocks_of(page) if block.title}


def shell_blocks(page: Path) -> int:
    """Return how many blocks of the page are ``bash`` to be typed: those with a title are files."""
    return sum(block.language == "bash" and not block.title for block in blocks_of(page))
