"""Joins the messages of a conversation into one text, with the seams that may split a value."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from floe_plugins.gate.detector import Span
from floe_plugins.gate.disguises.view import Rewriting, View

# Between messages with a role and those without. No value holds so many line feeds, and no detector
# looks so far back for a word before a value.
_WALL = "\n" * 64

# Characters on either side of a seam: about twice the longest value of structured data.
_SEAM = 96


@dataclass(frozen=True)
class Message:
    """One text of a conversation.

    Attributes
    ----------
    role : str or None
        The speaker. None for text beside the conversation, such as a tool's description: it is
        scanned by itself, and no value is split between it and a message.
    field : str or None
        The field of a request, or of a message, that holds a text beside the conversation.
    """

    text: str
    role: str | None = "user"
    field: str | None = None


class Conversation:
    """Messages joined by line feeds, and kept apart from text beside the conversation.

    Parameters
    ----------
    messages : sequence of Message
        In their order.

    Attributes
    ----------
    text : str
        The joined text.
    size : int
        Characters of the messages, without the separators.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = tuple(messages)
        gaps = [
            "\n" if before.role is not None and after.role is not None else _WALL
            for before, after in pairwise(self.messages)
        ]
        pieces = [each.text + gap for each, gap in zip(self.messages, [*gaps, ""], strict=False)]
        self.text = "".join(pieces)
        self.size = sum(len(message.text) for message in self.messages)
        self._starts = [0, *accumulate(map(len, pieces))][:-1]

    def seams(self) -> tuple[View, ...]:
        """Return views of the joined text in which nothing separates the messages.

        One view joins the messages in their order; one more for each role joins its messages, if
        others lie between them. They leave out the inner parts of long messages, which are scanned
        in the joined text.
        """
        spoken = [place for place, each in enumerate(self.messages) if each.role is not None]
        views = [self._seam(spoken)]
        roles = [self.messages[place].role for place in spoken]
        if len(set(roles)) > 1:
            views += [
                self._seam([place for place in spoken if self.messages[place].role == role])
                for role in sorted({role for role in roles if role and roles.count(role) > 1})
            ]
        return tuple(view.for_values() for view in views if view is not None)

    def split(self, spans: Sequence[Span]) -> tuple[tuple[Span, ...], ...]:
        """Return the spans message by message, with offsets into each; a span may be in several."""
        split: list[list[Span]] = [[] for _ in self.messages]
        for span in spans:
            for place in self._places(span):
                start, length = self._starts[place], len(self.messages[place].text)
                begin, end = max(span.start - start, 0), min(span.end - start, length)
                if begin < end:
                    split[place].append(Span(begin, end, span.label))
        return tuple(map(tuple, split))

    def messages_of(self, span: Span) -> Sequence[Message]:
        """Return the messages that a span of the text lies in, at least one."""
        return [self.messages[place] for place in self._places(span)]

    def bounds(self, span: Span) -> tuple[int, int]:
        """Return where the messages begin and end that a span of the text lies in."""
        places = self._places(span)
        last = places[-1]
        return self._starts[places[0]], self._starts[last] + len(self.messages[last].text)

    def replaced(self, texts: Sequence[str]) -> "Conversation":
        """Return the conversation with other texts, one per message."""
        return Conversation(
            [
                replace(message, text=text)
                for text, message in zip(texts, self.messages, strict=True)
            ]
        )

    def _places(self, span: Span) -> range:
        first = max(0, bisect_right(self._starts, span.start) - 1)
        return range(first, bisect_left(self._starts, span.end))

    def _seam(self, places: Sequence[int]) -> View | None:
        """Join some messages without anything in between and leave the rest out."""
        if len(places) < 2:
            return None
        rewriting = Rewriting(self.text)
        copied = 0
        for place in places:
            start, length = self._starts[place], len(self.messages[place].text)
            rewriting.replace(copied, start, "")
            if length > 2 * _SEAM:
                # Separated, so that no value spans the part that is left out.
                rewriting.replace(start + _SEAM, start + length - _SEAM, "\n\n\n")
            copied = start + length
        rewriting.replace(copied, len(self.text), "")
        return rewriting.view()
