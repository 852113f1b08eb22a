"""The task embedding: one vector that says what a device's texts are like."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from floe_plugins.errors import ConfigError
from flower_strategy.adapters.adapter import Float32Array
from flower_strategy.settings import EmbeddingSettings

if TYPE_CHECKING:
    from flower_strategy.device.base_model import BaseModel


@dataclass(frozen=True, eq=False)
class TaskEmbedding:
    """A device's task embedding, and how far chance may have moved it.

    Attributes
    ----------
    vector : Float32Array
        Shape (hidden,), unit length.
    error : float
        Standard error of the vector, as a length: what other texts of the same device, and the
        noise, would move it by. 0 where there is one text only and no noise.
    noise : float
        Standard deviation of the noise in it, before it was brought to unit length.
    """

    vector: Float32Array
    error: float
    noise: float = 0.0


@dataclass(frozen=True, eq=False)
class MeanEmbedding:
    """The mean of some texts' vectors, with the noise that is in it.

    Attributes
    ----------
    mean : NDArray[np.float64]
        Shape (hidden,), not of unit length.
    count : int
        Texts that it is the mean of, at least 1.
    noise : float (default: 0.0)
        Standard deviation of the Gaussian noise on every number.
    """

    mean: NDArray[np.float64]
    count: int
    noise: float = 0.0

    def blurred(self, noise: float, *, seed: int | None = None) -> MeanEmbedding:
        """Return the mean with more noise added, so that its noise is `noise` in all.

        What comes out is made of this mean and of chance alone: whoever has seen this one learns
        nothing from it.

        Parameters
        ----------
        noise : float
            Standard deviation of all noise in the result, not less than what is there.
        seed : int, optional
            Seed of the noise, for figures that shall come out again. Without one the system draws
            it.
        """
        added = math.sqrt(max(noise**2 - self.noise**2, 0.0))
        return MeanEmbedding(self.mean + added * _normal(self.mean.size, seed), self.count, noise)

    def embedding(self) -> TaskEmbedding:
        """Return the vector of unit length with its error, both of `mean`, `count`, `noise` alone.

        Vectors of unit length whose mean has length m lie 1 - m^2 around it in the mean of their
        squares. So the error needs no other look at the texts: where there is noise in the mean,
        it tells nothing that the mean does not tell.
        """
        blur = self.noise**2 * self.mean.size
        squared = float(self.mean @ self.mean)
        spread = 1.0 - min(max(squared - blur, 0.0), 1.0)
        variance = (spread / (self.count - 1) if self.count > 1 else 0.0) + blur
        error = math.sqrt(variance) / max(math.sqrt(squared), 1e-12)
        return TaskEmbedding(_unit(self.mean), error, self.noise)


def embed_texts(base: BaseModel, texts: Sequence[str], *, max_length: int = 64) -> Float32Array:
    """Return one vector per text: the mean of the frozen model's last hidden states.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    texts : Sequence[str]
        The texts.
    max_length : int (default: 64)
        Most tokens of each text.

    Returns
    -------
    Float32Array
        Shape (texts, hidden), float32, rows of unit length.
    """
    import torch

    vectors = []
    decoder = base.model.get_decoder()
    for text in texts:
        ids = base.tokenizer(text, add_special_tokens=False)["input_ids"][:max_length]
        if not ids:
            continue
        with torch.no_grad():
            hidden = decoder(input_ids=torch.tensor([ids], device=base.device)).last_hidden_state
        vectors.append(_unit(hidden[0].float().mean(dim=0).cpu().numpy()))
    if not vectors:
        raise ConfigError("There is no text to embed: all are empty.")
    return np.stack(vectors)


def mean_embedding(
    base: BaseModel, texts: Sequence[str], settings: EmbeddingSettings
) -> MeanEmbedding:
    """Return the mean of the texts' vectors, without noise.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    texts : Sequence[str]
        Local texts; the first `settings.texts` are used.
    settings : EmbeddingSettings
        How many texts, and how much of each.
    """
    vectors = embed_texts(base, texts[: settings.texts], max_length=settings.max_length)
    return MeanEmbedding(vectors.mean(axis=0, dtype=np.float64), len(vectors))


def task_embedding(
    base: BaseModel,
    texts: Sequence[str],
    settings: EmbeddingSettings,
    *,
    seed: int | None = None,
) -> TaskEmbedding:
    """Return the task embedding of texts with fresh noise.

    A device answers with `flower_strategy.device.embedding_noise.device_embedding`, which draws the
    noise once.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    texts : Sequence[str]
        Local texts; the first `settings.texts` are used.
    settings : EmbeddingSettings
        How many texts, how much of each, and the noise.
    seed : int, optional
        Seed of the noise, for figures that shall come out again. Without one the system draws it.
    """
    mean = mean_embedding(base, texts, settings)
    return (mean.blurred(settings.noise, seed=seed) if settings.noise else mean).embedding()


def _unit(vector: Float32Array | NDArray[np.float64]) -> Float32Array:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), dtype=np.float32)


def _normal(size: int, seed: int | None) -> NDArray[np.float64]:
    if seed is not None:
        return np.random.default_rng(seed).normal(size=size)
    # Not numpy's generator: what it has drawn tells its state, and with it what comes next.
    system = random.SystemRandom()
    return np.array([system.gauss(0.0, 1.0) for _ in range(size)])
