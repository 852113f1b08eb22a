"""Which parts of a view of a long text must be read: those near what the view has rewritten.

A long text with one disguise anywhere has views of all of it, and what a view has left as it was is
read in the text itself. Short texts, and views that change much, are read whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from floe_plugins.gate.detector import Span
from floe_plugins.gate.disguises.view import View

#: Texts of fewer characters have their views read whole.
LONG = 20_000

# Characters that are compared at once; what is read before and after a change; and how near to the
# outer end of that a finding may be cut off, and does not count. A finding is shorter than the
# difference of the two.
_BLOCK, _AROUND, _CUT_OFF = 256, 2_048, 512
# A view that would be read from this share on is read whole.
_MUCH = 0.7


@dataclass(frozen=True)
class Part:
    """A stretch of a view that is read.

    Attributes
    ----------
    start, end : int
        Its place in the view's text.
    first, last : int
        Findings that reach into this stretch count.
    """

    view: View
    start: int
    end: int
    first: int
    last: int

    @property
    def text(self) -> str:
        """The characters to read."""
        return self.view.text[self.start : self.end]

    @property
    def values_only(self) -> bool:
        """As of the view."""
        return self.view.values_only

    def placed(self, found: Collection[Span]) -> Iterator[Span]:
        """Yield the findings that count, with their places in the view."""
        for span in found:
            begin, end = span.start + self.start, span.end + self.start
            if end > self.first and begin < self.last:
                yield replace(span, start=begin, end=end)


def parts_of(view: View, text: str) -> list[Part]:
    """Return the parts of a view to read.

    Parameters
    ----------
    view : View
        A view of `text`, or one that was made from such a view.
    text : str
        The original.
    """
    length = len(view.text)
    whole = [Part(view, 0, length, 0, length)]
    if length < LONG:
        return whole
    near = [*_joined(_changed(view, text), length)]
    if sum(end - start for start, end in near) > _MUCH * length:
        return whole
    return [
        Part(
            view,
            start,
            end,
            start + _CUT_OFF if start else 0,
            end - _CUT_OFF if end < length else length,
        )
        for start, end in near
    ]


def _changed(view: View, text: str) -> Iterator[tuple[int, int]]:
    """Yield the blocks of a view that are not in the original as they are."""
    after = 0
    for start in range(0, len(view.text), _BLOCK):
        block = view.text[start : start + _BLOCK]
        begin, end = view.original(start, start + len(block))
        last = start + len(block) == len(view.text)
        # What was removed between two blocks is in neither.
        if text[begin:end] != block or begin != after or (last and end != len(text)):
            yield start, start + len(block)
        after = end


def _joined(blocks: Iterator[tuple[int, int]], length: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches around blocks, joined where they meet."""
    last: tuple[int, int] | None = None
    for start, end in blocks:
        start, end = max(0, start - _AROUND), min(length, end + _AROUND)
        if last is not None and start <= last[1]:
            last = last[0], end
            continue
        if last is not None:
            yield last
        last = start, end
    if last is not None:
        yield last


def by_view(
    parts: Sequence[Part], found: Sequence[Collection[Span]]
) -> Iterator[tuple[View, set[Span]]]:
    """Yield each view with what was found in its parts; views without parts are left out."""
    spans: dict[int, tuple[View, set[Span]]] = {}
    for part, own in zip(parts, found, strict=False):
        spans.setdefault(id(part.view), (part.view, set()))[1].update(part.placed(own))
    yield from spans.values()
