"""Messages of one conversation as one text, with the seams at which a value may be split."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from floe_plugins.gate.detector import Span
from floe_plugins.gate.disguises.view import Rewriting, View

# Between what is said and what stands beside it. No form of a value has so many line feeds within,
# and no detector looks so far for a word that announces one.
_WALL = "\n" * 64

# Characters on either side of a seam: about twice the longest value of structured data.
_SEAM = 96


@dataclass(frozen=True)
class Message:
    """One text of a conversation.

    Attributes
    ----------
    text : str
        What is said.
    role : str or None
        Who says it. None for what stands beside the conversation, such as a tool's description:
        it is looked at by itself, and no value goes on from it or in it.
    """

    text: str
    role: str | None = "user"


class Conversation:
    """Messages, joined with a line feed between each two, and apart from what is beside them.

    Parameters
    ----------
    messages : sequence of Message
        In their order.

    Attributes
    ----------
    messages : tuple of Message
        The messages.
    text : str
        The joined text.
    size : int
        Characters of the messages, without what joins them.
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
        """Return views of the joined text that bring together what stands at its seams.

        One joins the messages as they follow each other, one those of each role that spoke more
        than once with another in between. The inner parts of long messages are left out: they are
        scanned in the joined text.
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
        """Return the spans message by message, with offsets into each; one may be in several."""
        split: list[list[Span]] = [[] for _ in self.messages]
        for span in spans:
            first = max(0, bisect_right(self._starts, span.start) - 1)
            for place in range(first, bisect_left(self._starts, span.end)):
                start, length = self._starts[place], len(self.messages[place].text)
                begin, end = max(span.start - start, 0), min(span.end - start, length)
                if begin < end:
                    split[place].append(Span(begin, end, span.label))
        return tuple(map(tuple, split))

    def replaced(self, texts: Sequence[str]) -> "Conversation":
        """Return the conversation with other texts, one per message."""
        return Conversation(
            [
                Message(text, message.role)
                for text, message in zip(texts, self.messages, strict=True)
            ]
        )

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
                # Cut apart, so that nothing reads across what is left out.
                rewriting.replace(start + _SEAM, start + length - _SEAM, "\n\n\n")
            copied = start + length
        rewriting.replace(copied, len(self.text), "")
        return rewriting.view()
