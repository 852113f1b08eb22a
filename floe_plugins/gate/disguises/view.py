"""Views: rewritten texts that map every character to its place in the original."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from floe_plugins.gate.matching import matches_at


@dataclass(frozen=True)
class View:
    """A text made from another one by replacing stretches of it.

    Attributes
    ----------
    text : str
        The rewritten text.
    parent : View or None
        The view that it was made from, or None if that is the original text.
    values_only : bool
        Whether to look only for values, such as numbers and addresses: text that was assembled from
        pieces is not prose.
    """

    text: str
    parent: View | None
    # A segment begins at `start` and comes from `origin`. Its characters come from one each, or,
    # where the width is above 0, all of them from the same stretch of that many characters.
    _starts: tuple[int, ...]
    _origins: tuple[int, ...]
    _widths: tuple[int, ...]
    values_only: bool = False

    def for_values(self) -> View:
        """Return the view with `values_only` set."""
        return replace(self, values_only=True)

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Return the offsets in the original of ``text[start:end]``; it must not be empty.

        Parameters
        ----------
        start, end : int
            Offsets into the view, in characters.

        Returns
        -------
        tuple of int
            The smallest stretch of the original that holds all of it.
        """
        stretch = self._source(start, end)
        return stretch if self.parent is None else self.parent.original(*stretch)

    def stretches(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the stretches of the original that ``text[start:end]`` comes from.

        Unlike `original`, excludes gaps of more than one character that the first view of the chain
        left out.
        """
        if self.parent is not None:
            return self.parent.stretches(*self._source(start, end))
        found: list[tuple[int, int]] = []
        for segment in range(self._segment(start), self._segment(end - 1) + 1):
            after = self._starts[segment + 1] if segment + 1 < len(self._starts) else end
            begin, stop = self._source(max(start, self._starts[segment]), min(end, after))
            if found and begin <= found[-1][1] + 1:
                begin = found.pop()[0]
            found.append((begin, stop))
        return found

    def _source(self, start: int, end: int) -> tuple[int, int]:
        """Return the offsets in the parent's text."""
        first, last = self._segment(start), self._segment(end - 1)
        begin = self._origins[first]
        if not self._widths[first]:
            begin += start - self._starts[first]
        stop = self._origins[last] + self._widths[last]
        if not self._widths[last]:
            stop += end - self._starts[last]
        return begin, stop

    def _segment(self, offset: int) -> int:
        return bisect_right(self._starts, offset) - 1


@dataclass
class Rewriting:
    """Replaces stretches of a text in their order.

    Parameters
    ----------
    parent : View or None
        The view that `source` is from.
    """

    source: str
    parent: View | None = None
    _pieces: list[str] = field(default_factory=list)
    _starts: list[int] = field(default_factory=lambda: [0])
    _origins: list[int] = field(default_factory=lambda: [0])
    _widths: list[int] = field(default_factory=lambda: [0])
    _length: int = 0
    _copied: int = 0

    def replace(self, start: int, end: int, replacement: str) -> None:
        """Replace ``source[start:end]``, which is after all earlier replacements.

        Parameters
        ----------
        start, end : int
            Offsets into the source; `start` is not before the end of the last stretch.
        replacement : str
            May be empty.
        """
        self._pieces.append(self.source[self._copied : start])
        self._length += start - self._copied
        if replacement:
            self._pieces.append(replacement)
            self._begin(start, end - start)
            self._length += len(replacement)
        self._copied = end
        self._begin(end, 0)

    def view(self) -> View | None:
        """Return the rewritten text, or None if nothing was replaced."""
        if not self._pieces:
            return None
        text = "".join((*self._pieces, self.source[self._copied :]))
        return View(
            text, self.parent, tuple(self._starts), tuple(self._origins), tuple(self._widths)
        )

    def _begin(self, origin: int, width: int) -> None:
        if self._starts[-1] == self._length:
            # The segment before is empty.
            self._starts.pop(), self._origins.pop(), self._widths.pop()
        self._starts.append(self._length)
        self._origins.append(origin)
        self._widths.append(width)


#: Returns the view of a text with a given parent; None if it changes nothing.
Stage = Callable[[str, View | None], View | None]


def replacing(
    pattern: re.Pattern[str],
    by: str | Callable[[re.Match[str]], str | None],
    *,
    starts: re.Pattern[str] | None = None,
) -> Stage:
    """Return the stage that replaces a pattern's matches.

    Parameters
    ----------
    starts : re.Pattern, optional
        Where matches may begin, see `matches_at`.
    by : str or callable
        The replacement of every match, or a function from a match to it; None keeps the match.
    """

    def stage(text: str, parent: View | None) -> View | None:
        rewriting = Rewriting(text, parent)
        for match in matches_at(starts, pattern, text) if starts else pattern.finditer(text):
            replacement = by if isinstance(by, str) else by(match)
            if replacement is not None:
                rewriting.replace(match.start(), match.end(), replacement)
        return rewriting.view()

    return stage


def rewritten(text: str, parent: View | None, stages: Iterable[Stage]) -> View | None:
    """Rewrite a text in stages, each on the result of the one before.

    Parameters
    ----------
    parent : View or None
        The view that the text is from.

    Returns
    -------
    View or None
        The view of the last stage; None if none of them changed anything.
    """
    view = parent
    for stage in stages:
        view = stage(text, view) or view
        text = text if view is None or view is parent else view.text
    return None if view is parent else view
