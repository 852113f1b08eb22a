"""The task embedding: one vector that says what a device's texts are like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ConfigRecord

from floe_plugins.errors import ConfigError
from flower_strategy.adapter import FloatArray
from flower_strategy.run_config import RunConfig, check_values

if TYPE_CHECKING:
    from flower_strategy.base_model import BaseModel

_KEY_PREFIX = "embedding-"


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings:
    """How a device embeds its task.

    Attributes
    ----------
    texts : int (default: 8)
        Local texts that are averaged over.
    max_length : int (default: 64)
        Most tokens of each text.
    clip : float (default: 0.0)
        Largest length of a text's vector before averaging; 0 does not clip. Every text's vector
        has length 1 before that.
    noise : float (default: 0.0)
        Standard deviation of the Gaussian noise added to the average, in units of `clip`, or of 1
        where nothing is clipped.
    """

    texts: int = 8
    max_length: int = 64
    clip: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        check_values(
            {
                "embedding_texts": self.texts,
                "max_length": self.max_length,
                "embedding_clip": self.clip,
                "embedding_noise": self.noise,
            }
        )

    @staticmethod
    def from_config(config: RunConfig) -> EmbeddingSettings:
        """Take the settings out of a run configuration."""
        return EmbeddingSettings(
            texts=config.embedding_texts,
            max_length=config.max_length,
            clip=config.embedding_clip,
            noise=config.embedding_noise,
        )

    def to_record(self) -> ConfigRecord:
        """Write the settings into a message's configuration, keys ``embedding-*``."""
        return ConfigRecord({_key(name): value for name, value in vars(self).items()})

    @staticmethod
    def from_record(record: ConfigRecord) -> EmbeddingSettings:
        """Read the settings; other keys of the record are left alone."""
        known = EmbeddingSettings.__dataclass_fields__
        values: dict[str, Any] = {
            name: record[_key(name)] for name in known if _key(name) in record
        }
        return EmbeddingSettings(**values)


@dataclass(frozen=True, eq=False)
class TaskEmbedding:
    """A device's task embedding, and how far chance may have moved it.

    Attributes
    ----------
    vector : FloatArray
        Shape (hidden,), unit length.
    error : float
        Standard error of the vector, as a length: what other texts of the same device, and the
        noise, would move it by. 0 where there is one text only.
    """

    vector: FloatArray
    error: float


def embed_texts(base: BaseModel, texts: Sequence[str], *, max_length: int = 64) -> FloatArray:
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
    FloatArray
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


def task_embedding(
    base: BaseModel,
    texts: Sequence[str],
    settings: EmbeddingSettings,
    *,
    seed: int | None = None,
) -> TaskEmbedding:
    """Return a device's task embedding; the texts stay here.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    texts : Sequence[str]
        Local texts; the first `settings.texts` are used.
    settings : EmbeddingSettings
        Clipping and noise.
    seed : int, optional
        Seed of the noise, secret to the device (`flower_strategy.embedding_noise`). Without one it
        is drawn from the system.
    """
    vectors = embed_texts(base, texts[: settings.texts], max_length=settings.max_length)
    if settings.clip:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors * np.minimum(1.0, settings.clip / norms)
    mean, count = vectors.mean(axis=0), len(vectors)
    variance = float(np.square(vectors - mean).sum()) / max(count * (count - 1), 1)
    if settings.noise:
        scale = settings.noise * (settings.clip or 1.0)
        mean = mean + np.random.default_rng(seed).normal(scale=scale, size=mean.shape)
        variance += scale**2 * mean.size
    length = max(float(np.linalg.norm(mean)), 1e-12)
    return TaskEmbedding(_unit(mean), math.sqrt(variance) / length)


def _key(name: str) -> str:
    return _KEY_PREFIX + name.replace("_", "-")


def _unit(vector: FloatArray) -> FloatArray:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), dtype=np.float32)
