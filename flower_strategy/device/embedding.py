"""The task embedding: one vector that characterises a device's texts."""

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
from flower_strategy.data.examples import Example
from flower_strategy.device.encoding import encoder_of
from flower_strategy.settings import EmbeddingSettings

if TYPE_CHECKING:
    from flower_strategy.device.base_model import BaseModel


#: Fewer prompts do not tell how far prompts of a task differ.
_FEWEST_PROMPTS = 4


@dataclass(frozen=True, eq=False)
class TaskEmbedding:
    """A device's task embedding and its uncertainty.

    Attributes
    ----------
    vector : Float32Array
        Shape (hidden,), unit length.
    error : float
        Standard error of the vector, as a length: how far other texts of the same device, and the
        noise, would move it. 0 for a single text without noise.
    noise : float
        Standard deviation of its noise, before normalisation.
    """

    vector: Float32Array
    error: float
    noise: float = 0.0


@dataclass(frozen=True, eq=False)
class MeanEmbedding:
    """The mean of some texts' vectors, and its noise.

    Attributes
    ----------
    mean : NDArray[np.float64]
        Shape (hidden,), not normalised.
    count : int
        Number of texts in the mean, at least 1.
    noise : float (default: 0.0)
        Standard deviation of the Gaussian noise on every component.
    """

    mean: NDArray[np.float64]
    count: int
    noise: float = 0.0

    def blurred(self, noise: float, *, seed: int | None = None) -> MeanEmbedding:
        """Return the mean with noise added up to a total of `noise`.

        The result depends on this mean and on chance alone, so it reveals nothing beyond this mean.

        Parameters
        ----------
        noise : float
            Standard deviation of all noise in the result; at least the present noise.
        seed : int, optional
            Seed of the noise, for reproducible figures. By default the operating system draws the
            noise.
        """
        added = math.sqrt(max(noise**2 - self.noise**2, 0.0))
        return MeanEmbedding(self.mean + added * _normal(self.mean.size, seed), self.count, noise)

    def embedding(self) -> TaskEmbedding:
        """Return the unit vector with its error, both from `mean`, `count` and `noise` alone.

        Unit vectors whose mean has length m have a mean squared distance of 1 - m^2 to it. The
        error therefore needs no other access to the texts, and reveals nothing beyond the mean.
        """
        blur = self.noise**2 * self.mean.size
        squared = float(self.mean @ self.mean)
        spread = 1.0 - min(max(squared - blur, 0.0), 1.0)
        variance = (spread / (self.count - 1) if self.count > 1 else 0.0) + blur
        error = math.sqrt(variance) / max(math.sqrt(squared), 1e-12)
        return TaskEmbedding(_unit(self.mean), error, self.noise)


def embed_texts(
    base: BaseModel,
    texts: Sequence[str | Example],
    *,
    max_length: int = 256,
    template: str = "auto",
) -> Float32Array:
    """Return one vector per text: the mean of the frozen model's last hidden states.

    The token ids are those that a server reads, see `flower_strategy.device.encoding`.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    texts : Sequence[str | Example]
        What users ask, or examples, which are answers, too.
    max_length : int (default: 256)
        Most tokens of each text.
    template : str (default: "auto")
        As in the run configuration.

    Returns
    -------
    Float32Array
        Shape (texts, hidden), float32, rows of unit length.
    """
    import torch

    vectors = []
    decoder = base.model.get_decoder()
    encoder = encoder_of(base.tokenizer, template=template, max_length=max_length)
    for text in texts:
        if isinstance(text, Example):
            ids = list(encoder.encode(text).ids)
        elif text.strip():
            ids = encoder.prompt(text)
        else:
            continue
        with torch.no_grad():
            hidden = decoder(input_ids=torch.tensor([ids], device=base.device)).last_hidden_state
        vectors.append(_unit(hidden[0].float().mean(dim=0).cpu().numpy()))
    if not vectors:
        raise ConfigError("There is no text to embed: all are empty.")
    return np.stack(vectors)


def mean_embedding(
    base: BaseModel, texts: Sequence[str | Example], settings: EmbeddingSettings
) -> MeanEmbedding:
    """Return the mean of the texts' vectors, without noise.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    texts : Sequence[str | Example]
        Local texts; the first `settings.texts` are used.
    settings : EmbeddingSettings
        How many texts, and how much of each.
    """
    vectors = embed_texts(
        base, texts[: settings.texts], max_length=settings.max_length, template=settings.template
    )
    return MeanEmbedding(vectors.mean(axis=0, dtype=np.float64), len(vectors))


def least_cosine(
    base: BaseModel,
    examples: Sequence[Example],
    embedding: TaskEmbedding,
    settings: EmbeddingSettings,
) -> float:
    """Return the least cosine with a device's embedding that a prompt of its task has, about.

    Three standard deviations below the mean of some prompts of the device: a text with less is of
    another task. Prompts stand apart from the embedding's texts, which end with responses.

    Returns
    -------
    float
        From -1, which is also the answer where there is no telling: of fewer than four prompts, or
        of an embedding with noise, whose device has not agreed to tell more.
    """
    prompts = [text for text in map(_prompt, examples[: settings.texts]) if text.strip()]
    if embedding.noise or len(prompts) < _FEWEST_PROMPTS:
        return -1.0
    vectors = embed_texts(base, prompts, max_length=settings.max_length, template=settings.template)
    cosines = vectors.astype(np.float64) @ embedding.vector
    # Prompts that are all but alike say little of how the next one differs.
    width = max(3 * float(cosines.std(ddof=1)), (1 - float(cosines.mean())) / 2)
    return max(-1.0, float(cosines.mean()) - width)


def _prompt(example: Example) -> str:
    """Return what the user says first."""
    if example.has_text:
        return example.prompt
    said = (message for message in example.messages if message["role"] == "user")
    return str(next(said, {}).get("content") or "")


def task_embedding(
    base: BaseModel,
    texts: Sequence[str | Example],
    settings: EmbeddingSettings,
    *,
    seed: int | None = None,
) -> TaskEmbedding:
    """Return the task embedding of texts, with fresh noise.

    Devices use `flower_strategy.device.embedding_noise.device_embedding` instead, which draws the
    noise once.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    texts : Sequence[str | Example]
        Local texts; the first `settings.texts` are used.
    settings : EmbeddingSettings
        How many texts, how much of each, and the noise.
    seed : int, optional
        Seed of the noise, for reproducible figures. By default the operating system draws it.
    """
    mean = mean_embedding(base, texts, settings)
    return (mean.blurred(settings.noise, seed=seed) if settings.noise else mean).embedding()


def _unit(vector: Float32Array | NDArray[np.float64]) -> Float32Array:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), dtype=np.float32)


def _normal(size: int, seed: int | None) -> NDArray[np.float64]:
    if seed is not None:
        return np.random.default_rng(seed).normal(size=size)
    # Not numpy's generator: its output reveals its state, and thus its next numbers.
    system = random.SystemRandom()
    return np.array([system.gauss(0.0, 1.0) for _ in range(size)])
