"""The noisy task embeddings that a device has sent, kept on its disk.

One file per node, which only its user can read::

    embedding-answers/<node>.json
        {"format": 1, "secret": "...",
         "answers": [{"texts": ["..."], "model": "...", "noise": 0.05, "count": 8,
                      "mean": [0.01, ...]}]}

Texts are stored as hashes keyed with the file's secret.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import math
import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from floe_plugins import files
from floe_plugins.errors import FloeError
from flower_strategy.device.embedding import MeanEmbedding

logger = logging.getLogger("flwr")

_FORMAT = 1
_SECRET_BYTES = 32
_LOCK_SECONDS = 600.0


class AnswersError(FloeError, RuntimeError):
    """The answers cannot be read or kept; the message is the reason, without the file's path."""


@dataclass(frozen=True, eq=False)
class Answer:
    """A noisy mean that was sent to the server.

    Attributes
    ----------
    texts : frozenset[str]
        Hashes of the texts in the mean.
    model : str
        The base model that embedded them.
    mean : MeanEmbedding
        The mean that was sent, before normalisation.
    """

    texts: frozenset[str]
    model: str
    mean: MeanEmbedding


@dataclass(eq=False)
class Answers:
    """All answers of one node, oldest first.

    Attributes
    ----------
    secret : bytes
        Key of the texts' hashes.
    sent : list[Answer]
        The answers.
    """

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(_SECRET_BYTES))
    sent: list[Answer] = field(default_factory=list)

    def hashed(self, origin: bytes) -> str:
        """Return the hash that stands for a text in the file."""
        return hmac.new(self.secret, origin, hashlib.sha256).hexdigest()[:32]

    def used(self) -> frozenset[str]:
        """Return the hashes of all texts used in any answer."""
        return frozenset[str]().union(*(answer.texts for answer in self.sent))

    def holding(self, held: Collection[str]) -> Answer | None:
        """Return the latest answer at least half of whose texts the device still holds."""
        there = frozenset(held)
        for answer in reversed(self.sent):
            if 2 * len(answer.texts & there) >= len(answer.texts):
                return answer
        return None

    def sharing(self, held: Collection[str]) -> Answer:
        """Return the answer that shares the most texts with those held; there must be one."""
        shared = frozenset(held)
        return max(reversed(self.sent), key=lambda answer: len(answer.texts & shared))

    def replace(self, old: Answer, mean: MeanEmbedding) -> Answer:
        """Replace an answer's mean."""
        new = replace(old, mean=mean)
        self.sent[self.sent.index(old)] = new
        return new


@contextlib.contextmanager
def kept_answers(path: Path) -> Iterator[Answers]:
    """Yield a node's answers under an exclusive lock; save changes at the end.

    Parameters
    ----------
    path : Path
        The node's file; made when absent.

    Raises
    ------
    AnswersError
        The file cannot be read, written or locked. Nothing may be sent then, because the next
        answer would have different noise.
    """
    with _alone(path):
        # Writers hold the lock, so a part found here was left by a process that died.
        files.remove_parts(path)
        answers = _read(path)
        before = tuple(answers.sent)
        yield answers
        if tuple(answers.sent) != before:
            try:
                _write(path, answers)
            except OSError as error:
                logger.error("The embedding's answers cannot be kept in %s: %s", path, error)
                raise AnswersError(
                    "it cannot keep what it would answer, and the next answer would have other "
                    f"noise: {_cause(error)}"
                ) from error


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = files.locked(
        path.with_name(f"{path.name}.lock"), without_locks="marker_file", timeout=_LOCK_SECONDS
    )
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            held.enter_context(lock)
        except OSError as error:
            logger.error("The embedding's answers cannot be locked in %s: %s", path, error)
            raise AnswersError(
                f"it cannot lock the file of its earlier answers: {_cause(error)}"
            ) from error
        yield


def _read(path: Path) -> Answers:
    try:
        return _parse(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return Answers()
    except (OSError, ValueError, KeyError, TypeError) as error:
        # Treating it as absent would answer with different noise.
        logger.error("The embedding's answers in %s cannot be read: %r", path, error)
        raise AnswersError(
            f"it cannot read the file of its earlier answers: {_cause(error)}"
        ) from error


def _parse(content: Any) -> Answers:
    """Read a file's content.

    Raises
    ------
    ValueError, KeyError, TypeError
        It is damaged or of another version.
    """
    if content["format"] != _FORMAT:
        raise ValueError(f"its format is {content['format']!r}, not {_FORMAT}")
    secret = bytes.fromhex(content["secret"])
    if len(secret) != _SECRET_BYTES:
        raise ValueError(f"its secret has {len(secret)} bytes, not {_SECRET_BYTES}")
    return Answers(secret, [_answer(each) for each in content["answers"]])


def _answer(values: Any) -> Answer:
    mean = np.array(values["mean"], dtype=np.float64)
    noise, count = float(values["noise"]), int(values["count"])
    if mean.ndim != 1 or not np.isfinite(mean).all() or count < 1 or not 0 < noise < math.inf:
        raise ValueError("an answer's numbers are out of range")
    texts = frozenset(map(str, values["texts"]))
    return Answer(texts, str(values["model"]), MeanEmbedding(mean, count, noise))


def _write(path: Path, answers: Answers) -> None:
    content = {
        "format": _FORMAT,
        "secret": answers.secret.hex(),
        "answers": [_values(answer) for answer in answers.sent],
    }
    files.write_file(path, json.dumps(content, allow_nan=False), mode=0o600, durable=True)


def _values(answer: Answer) -> dict[str, Any]:
    return {
        "texts": sorted(answer.texts),
        "model": answer.model,
        "noise": answer.mean.noise,
        "count": answer.mean.count,
        "mean": answer.mean.mean.tolist(),
    }


def _cause(error: Exception) -> str:
    """Return an error as a phrase for the server, without any path."""
    return (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__}"
