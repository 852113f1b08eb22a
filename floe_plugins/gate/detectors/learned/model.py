"""The learned table of weights: which words and neighbours speak for which class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from floe_plugins.gate.detectors.learned.features import ROWS, Word, edge, pair_rows
from floe_plugins.gate.detectors.learned.lexicon import Lexicon

CLASSES = ("NOTHING", "PERSON", "LOCATION", "ADDRESS", "ORGANIZATION")

Scores = npt.NDArray[np.float32]

# More words than this are not remembered: a text of random words must not fill the memory.
_REMEMBERED = 40_000


class Model:
    """Scores the words of a text.

    Not to be used from several threads at once: it remembers words.

    Parameters
    ----------
    weights : array of int8
        Of shape (`ROWS`, classes).
    scale : array of float32
        Per class, what one step of a weight is worth.
    intercept : array of float32
        Per class.
    lexicon : Lexicon
        What is known of words.
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

    def scores(self, words: Sequence[str]) -> Scores:
        """Score the words of one text.

        Parameters
        ----------
        words : sequence of str
            As `features.tokens` gives them; at least one.

        Returns
        -------
        array of float32
            Of shape (words, classes): above 0 where the word is of the class, 1 where surely.
        """
        places = self._places(words)
        count = len(words)
        padded = np.concatenate(([0, 0], places, [0, 0]))
        heard = self._heard
        total = heard[padded[2:-2], 0] + heard[padded[3:-1], 1] + heard[padded[1:-3], 2]
        total += heard[padded[4:], 3] + heard[padded[:count], 4]
        rows = pair_rows([self._known[place] for place in places], self._border)
        total += self.weights[rows].sum(axis=1, dtype=np.int32)
        return total * self.scale + self.intercept

    def _places(self, words: Sequence[str]) -> list[int]:
        """Return where each word is remembered, after learning the new ones."""
        if len(self._known) > _REMEMBERED:
            self._forget()
        index = self._index
        new = [word for word in dict.fromkeys(words) if word not in index]
        if new:
            start = len(self._known)
            made = [Word(word, self.lexicon) for word in new]
            self._known += made
            index.update(zip(new, range(start, start + len(new)), strict=True))
            self._hear(made, start)
        return [index[word] for word in words]

    def _hear(self, words: Sequence[Word], start: int) -> None:
        """Add up what words say about themselves and about the places around them."""
        rows = [part for word in words for part in word.rows]
        lengths = np.array([len(part) for part in rows])
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        flat = self.weights[np.array([row for part in rows for row in part])].astype(np.int32)
        sums = np.add.reduceat(flat, starts, axis=0).reshape(len(words), -1, len(CLASSES))
        end = start + len(words)
        if end > len(self._heard):
            grown = np.zeros((max(end, 2 * len(self._heard)), *self._heard.shape[1:]), np.int32)
            grown[:start] = self._heard[:start]
            self._heard = grown
        self._heard[start:end] = sums

    def _forget(self) -> None:
        self._known: list[Word] = [self._border]
        self._index: dict[str, int] = {}
        self._heard = np.zeros((1024, len(self._border.rows), len(CLASSES)), np.int32)
        self._hear(self._known, 0)
