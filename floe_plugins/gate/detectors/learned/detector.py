"""Finds people, places, addresses and organisations by a table of learned weights."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from floe_plugins.gate.detector import Span

if TYPE_CHECKING:
    from floe_plugins.gate.detectors.learned.model import Model

MODEL = Path(__file__).with_name("model.npz")

# Words scored at once, which bounds the memory; neighbours across the cut are included.
_WORDS = 4096
_SEEN = 2


class LearnedDetector:
    """Finds names of people, places, streets and organisations, which have no form of their own.

    A linear model scores every word by the word itself, its spelling, lists of names and of English
    words, and its neighbours. It is trained from generated sentences; see `tools.learned_detector`.
    The first text, or `load`, reads the model.

    Parameters
    ----------
    threshold : float, optional
        A word is private if its best class beats "nothing" by more than this.
    """

    name = "learned"
    labels: Sequence[str] = ("PERSON", "LOCATION", "ADDRESS", "ORGANIZATION")

    def __init__(self, path: Path = MODEL, *, threshold: float = 0.4) -> None:
        self._path = path
        self._threshold = threshold
        self._model: Model | None = None
        self._lock = threading.Lock()

    def load(self) -> Model:
        """Read the model, unless it is already loaded.

        Raises
        ------
        OSError
            The file cannot be read.
        ValueError
            It holds no model of this version.
        """
        if self._model is None:
            from floe_plugins.gate.detectors.learned.model import Model

            self._model = Model.load(self._path)
        return self._model

    def detect(self, text: str) -> Sequence[Span]:
        """Return the private stretches of a text."""
        from floe_plugins.gate.detectors.learned.features import tokens

        with self._lock:
            words, starts = tokens(text)
            labels = self._labels_of(words, self.load())
        return _joined(text, words, starts, labels) if labels else []

    def _labels_of(self, words: Sequence[str], model: Model) -> dict[int, str]:
        """Return the labels of the private words, by their numbers, ascending."""
        labels: dict[int, str] = {}
        for start in range(0, len(words), _WORDS):
            first = max(0, start - _SEEN)
            scores = model.scores(words[first : start + _WORDS + _SEEN])
            scores = scores[start - first :][:_WORDS]
            private = (scores[:, 1:].max(axis=1) - scores[:, 0] > self._threshold).nonzero()[0]
            best = scores[private, 1:].argmax(axis=1)
            for number, which in zip(private.tolist(), best.tolist(), strict=True):
                labels[start + number] = self.labels[which]
        return labels


def _joined(
    text: str, words: Sequence[str], starts: Sequence[int], labels: Mapping[int, str]
) -> list[Span]:
    """Make one span of neighbours with the same label."""
    stretches: list[tuple[int, int, str]] = []
    for number, label in labels.items():
        start = starts[number]
        end = start + len(words[number])
        if stretches:
            first, last, other = stretches[-1]
            if other == label and not text[last:start].strip():
                stretches[-1] = (first, end, label)
                continue
        stretches.append((start, end, label))
    return [
        Span(start, end, label) for start, end, label in stretches if _tells(text[start:end], label)
    ]


def _tells(stretch: str, label: str) -> bool:
    """Return whether a stretch is more than signs, an initial, or a number of few digits."""
    if any(letter >= "\u3040" for letter in stretch):
        return True
    letters = sum(map(str.isalpha, stretch))
    return letters > 1 or (label == "ADDRESS" and sum(map(str.isdigit, stretch)) > 3)
