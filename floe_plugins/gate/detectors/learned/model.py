"""The learned table of weights of words and neighbours for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from floe_plugins.gate.detectors.learned.features import (
    OFFSETS,
    ROWS,
    Indices,
    Lexicon,
    Word,
    edge,
    pair_rows,
    rows_of,
)

CLASSES = ("NOTHING", "PERSON", "LOCATION", "ADDRESS", "ORGANIZATION")

Scores = npt.NDArray[np.float32]

# Most remembered words: a text of random words must not fill the memory.
_REMEMBERED = 40_000


class Model:
    """Scores the words of a text.

    It remembers words, so only one thread at a time may use it.

    Parameters
    ----------
    weights : array of int8
        Of shape (`ROWS`, classes).
    scale : array of float32
        Per class, the value of one step of a weight.
    intercept : array of float32
        Per class.
    lexicon : Lexicon
        Known properties of words.
    """

    def __init__(
        self,
        weights: npt.NDArray[np.int8],
        scale: Scores,
        intercept: Scores,
        lexicon: Lexicon,
    ) -> None:
        self.weights = weights
        self.scale = scale
        self.intercept = intercept
        self.lexicon = lexicon
        self._border = edge(lexicon)
        self._index: dict[str, int]
        self._contributions: npt.NDArray[np.int32]
        self._attributes: npt.NDArray[np.uint64]
        self._forget()

    @classmethod
    def load(cls, path: Path) -> "Model":
        """Read a model.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it does not hold a model of this shape.
        """
        with np.load(path, allow_pickle=False) as held:
            parts = {name: held[name] for name in held.files}
        expected = {"weights", "scale", "intercept", "hashes", "codes"}
        if set(parts) != expected or parts["weights"].shape != (ROWS, len(CLASSES)):
            raise ValueError(f"The model {path.name} does not fit this version of Floe.")
        lexicon = Lexicon(parts["hashes"], parts["codes"])
        return cls(parts["weights"], parts["scale"], parts["intercept"], lexicon)

    def save(self, path: Path) -> None:
        """Write the model; the same model gives the same bytes."""
        with path.open("wb") as file:
            np.savez(
                file,
                weights=self.weights,
                scale=self.scale,
                intercept=self.intercept,
                hashes=self.lexicon.hashes,
                codes=self.lexicon.codes,
            )

    def scores(self, words: Sequence[str], *, capitals: int | None = None) -> Scores:
        """Score the words of one text.

        Parameters
        ----------
        words : sequence of str
            As `features.tokens` gives them; at least one.
        capitals : int, optional
            As for `pair_rows`.

        Returns
        -------
        array of float32
            Of shape (words, classes): above 0 if the word is of the class, 1 if certainly.
        """
        count = len(words)
        padded = np.array([0, 0, *self._places(words), 0, 0])
        around = self._contributions.take(padded, axis=0)
        total = around[2 : 2 + count, 0]
        for number, offset in enumerate(OFFSETS[1:], start=1):
            total += around[2 - offset : 2 - offset + count, number]
        total += _sum(
            self.weights, pair_rows(self._attributes.take(padded, axis=1), capitals=capitals)
        )
        scores: Scores = total * self.scale
        scores += self.intercept
        return scores

    def _places(self, words: Sequence[str]) -> list[int]:
        """Return the place of each word in the memory, after adding the new ones."""
        if len(self._index) > _REMEMBERED:
            self._forget()
        index = self._index
        new = set(words).difference(index)
        if new:
            # The border has the first place.
            start = len(index) + 1
            self._add_words([Word(word, self.lexicon) for word in new], start)
            index.update(zip(new, range(start, start + len(new)), strict=True))
        return list(map(index.__getitem__, words))

    def _add_words(self, words: Sequence[Word], start: int) -> None:
        """Add up the scores of words for themselves and for the places around them."""
        parts = [part for word in words for part in word.hashes]
        lengths = np.array([len(part) for part in parts])
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        rows = rows_of([row for part in parts for row in part])
        flat = self.weights.take(rows, axis=0)
        sums = np.add.reduceat(flat, starts, axis=0, dtype=np.int32).reshape(
            len(words), -1, len(CLASSES)
        )
        end = start + len(words)
        if end > len(self._contributions):
            room = max(end, 2 * len(self._contributions)) - len(self._contributions)
            self._contributions = np.pad(self._contributions, ((0, room), (0, 0), (0, 0)))
            self._attributes = np.pad(self._attributes, ((0, 0), (0, room)))
        self._contributions[start:end] = sums
        self._attributes[:, start:end] = (
            [word.identity for word in words],
            [word.kind for word in words],
            [word.ends_sentence for word in words],
        )

    def _forget(self) -> None:
        self._index = {}
        self._contributions = np.zeros((1024, len(self._border.hashes), len(CLASSES)), np.int32)
        self._attributes = np.zeros((3, 1024), np.uint64)
        self._add_words([self._border], 0)


def _sum(table: npt.NDArray[Any], rows: Indices) -> npt.NDArray[np.int32]:
    """Add up rows of a table along the first axis of their numbers."""
    taken = table.take(rows.ravel(), axis=0).reshape(len(rows), -1)
    total: npt.NDArray[np.int32] = taken.sum(axis=0, dtype=np.int32)
    return total.reshape(-1, table.shape[1])
