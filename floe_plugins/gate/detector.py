"""What a privacy detector is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, order=True)
class Span:
    """A private stretch of a text.

    Attributes
    ----------
    start, end : int
        The stretch is ``text[start:end]``; offsets count characters.
    label : str
        What it is, in capitals, e.g. ``EMAIL``. Redaction puts ``<EMAIL>`` in its place.
    """

    start: int
    end: int
    label: str


@runtime_checkable
class Detector(Protocol):
    """A privacy detector, registered with the hook `floe_register_detectors`.

    A detector is asked from a thread of its own, one text at a time. It must need a time that
    grows no faster than the text: an answer that comes too late makes the text private. Only code
    that runs in Python or releases the interpreter's lock can be given up on; a pattern of `re`
    that backtracks without end stops the whole process.
    """

    @property
    def name(self) -> str:
        """The name by which configurations choose this detector; unique."""
        ...

    @property
    def labels(self) -> Sequence[str]:
        """Every label that `detect` may give."""
        ...

    def detect(self, text: str) -> Sequence[Span]:
        """Return the private spans of a text, in any order; they may overlap.

        Parameters
        ----------
        text : str
            The text, or a normalised form of it without invisible characters. Both are asked
            where they differ.

        Returns
        -------
        sequence of Span
            Non-empty spans within the text, with labels out of `labels`. Anything else counts as
            a failure, and so does an exception: the text is then private.
        """
        ...
