"""What the gate answers."""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from floe_plugins.gate.detector import Span


class Decision(StrEnum):
    """Where a text may go."""

    CLEAR = "clear"
    """The text may leave as it is."""

    REDACTED = "redacted"
    """Only `Verdict.redacted_text` may leave."""

    LOCAL = "local"
    """Nothing of the text may leave."""


@dataclass(frozen=True)
class Failure:
    """Why a text was not scanned in full; says nothing about the text.

    Attributes
    ----------
    detector : str
        The detector that failed, or ``gate`` if the text was not given to any.
    plugin : str
        The plugin that the detector is from.
    reason : str
        The type of the exception, or a fixed phrase such as ``late``.
    """

    detector: str
    plugin: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """The gate's verdict on one text.

    Attributes
    ----------
    decision : Decision
        ``clear``, ``redacted`` or ``local``.
    labels : tuple of str
        The labels found, sorted, each once.
    spans : tuple of Span
        What was found, sorted by place; offsets into the text as it was given, or into the
        messages joined by line feeds.
    scanned_all : bool
        Whether every detector gave a valid answer on the whole text. If not, the decision is
        ``local``.
    detectors : tuple of str
        The detectors that were asked, sorted.
    milliseconds : float
        How long the decision took.
    failures : tuple of Failure
        Why the text was not scanned in full, if it was not.
    messages : tuple of tuple of Span
        For a conversation: the spans message by message, with offsets into each. A value that is
        split over messages is in each of them with its part.
    redacted_text : str or None
        The text with a placeholder such as ``<EMAIL>`` for every span, if the decision is
        ``redacted``. Left out of the representation.
    redacted_messages : tuple of str or None
        The same message by message, for a conversation. Left out of the representation.
    """

    decision: Decision
    labels: tuple[str, ...]
    spans: tuple[Span, ...]
    scanned_all: bool
    detectors: tuple[str, ...]
    milliseconds: float
    failures: tuple[Failure, ...] = ()
    messages: tuple[tuple[Span, ...], ...] = ()
    redacted_text: str | None = field(default=None, repr=False)
    redacted_messages: tuple[str, ...] | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON values, without any of the text."""
        values = asdict(self)
        del values["redacted_text"], values["redacted_messages"]
        if not self.messages:
            del values["messages"]
        values["decision"] = str(self.decision)
        return values
