"""Groups of settings of a strategy; a run configuration yields all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from flwr.app import ConfigRecord

from floe_plugins.errors import ConfigError
from flower_strategy.adapters.adapter import lora_scaling
from flower_strategy.config import RunConfig, check_values
from flower_strategy.config_keys import (
    EvalExamples,
    Keys,
    Model,
    ParticipationKeys,
    ReplyKeys,
    TrainingKeys,
)
from flower_strategy.loop_keys import LoopKeys

_KEY_PREFIX = "embedding-"


class TrainingSettings(LoopKeys, TrainingKeys):
    """How a device trains; sent in every message.

    The keys are those of the run configuration, with ``_`` for ``-``.
    """

    model: Model
    eval_examples: EvalExamples = 0

    def scaling(self, rank: int) -> float:
        """Return the factor in front of ``b @ a`` at a rank."""
        return lora_scaling(alpha=self.alpha, rank=rank, rslora=self.rslora)

    def steps(self, num_examples: int) -> int:
        """Return the optimizer steps of a round on a device with so many examples.

        With ``epochs`` they are as many as transformers' Trainer takes.
        """
        if not self.epochs:
            return self.local_steps
        size = self.batch_size * self.gradient_accumulation_steps
        # The slack is for products such as 0.1 * 30.
        return max(1, math.ceil(self.epochs * math.ceil(num_examples / size) - 1e-9))

    def to_record(self) -> ConfigRecord:
        """Write the settings into a message's configuration."""
        return ConfigRecord(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def from_record(cls, record: ConfigRecord) -> Self:
        """Read the settings; ignore the record's other keys."""
        values: dict[str, Any] = {key: record[key] for key in cls.names() if key in record}
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings:
    """How a device embeds its task.

    Attributes
    ----------
    texts : int (default: 8)
        Local texts to average over.
    max_length : int (default: 256)
        Most tokens per text.
    noise : float (default: 0.0)
        Standard deviation of the Gaussian noise added to every entry of the mean of the texts' unit
        vectors.
    template : str (default: "auto")
        As in `TrainingSettings`.
    """

    texts: int = 8
    max_length: int = 256
    noise: float = 0.0
    template: str = "auto"

    def __post_init__(self) -> None:
        check_values(
            {
                "embedding_texts": self.texts,
                "max_length": self.max_length,
                "embedding_noise": self.noise,
                "template": self.template,
            }
        )

    @staticmethod
    def from_config(config: RunConfig) -> EmbeddingSettings:
        """Return the settings of a run configuration."""
        return EmbeddingSettings(
            texts=config.embedding_texts,
            max_length=config.max_length,
            noise=config.embedding_noise,
            template=config.template,
        )

    def to_record(self) -> ConfigRecord:
        """Write the settings into a message's configuration, keys ``embedding-*``."""
        return ConfigRecord({_key(name): value for name, value in vars(self).items()})

    @staticmethod
    def from_record(record: ConfigRecord) -> EmbeddingSettings:
        """Read the settings; ignore the record's other keys."""
        known = EmbeddingSettings.__dataclass_fields__
        values: dict[str, Any] = {
            name: record[_key(name)] for name in known if _key(name) in record
        }
        return EmbeddingSettings(**values)


@dataclass(frozen=True, kw_only=True)
class ClusteringSettings:
    """How devices are clustered.

    Attributes
    ----------
    threshold : float (default: 0.5)
        Silhouette that a split must reach. With SmolLM2, devices of one task stay under 0.32 and
        devices of three tasks reach 0.91, so 0.5 separates.
    separation : float (default: 3.0)
        Least distance between two clusters' centroids, in standard errors of a device's embedding.
        A silhouette has no scale: devices that all hold the same mixture of tasks differ by the
        random sample of their texts, and a few of them always fall into two groups. With SmolLM2
        and 8 texts such groups were 2.0 errors apart, devices of different tasks 4.9 to 8.
    most : int (default: 16)
        Most clusters to try.
    smallest : int (default: 1)
        Fewest devices per cluster; those of smaller clusters join the nearest one.
    by : str (default: "embedding")
        ``embedding`` splits by task embeddings, ``adapter`` by the B matrices that devices train in
        the first round.
    every : int (default: 0)
        Rounds after which devices embed their texts and are clustered again; 0 never.
    """

    threshold: float = 0.5
    separation: float = 3.0
    most: int = 16
    smallest: int = 1
    by: Literal["embedding", "adapter"] = "embedding"
    every: int = 0

    @staticmethod
    def from_config(config: RunConfig) -> ClusteringSettings:
        """Return the settings of a run configuration."""
        return ClusteringSettings(
            threshold=config.silhouette,
            separation=config.separation,
            smallest=config.min_cluster_size,
            by=config.cluster_by,
            every=config.recluster_every,
        )

    def __post_init__(self) -> None:
        check_values(
            {
                "silhouette": self.threshold,
                "separation": self.separation,
                "min_cluster_size": self.smallest,
                "cluster_by": self.by,
                "recluster_every": self.every,
            }
        )
        if self.by == "adapter" and self.every:
            raise ConfigError(
                f"Clustering by adapter cannot be repeated every {self.every} rounds: after the "
                "first round the clusters' adapters differ, and B matrices cannot be compared. "
                "Use recluster-every=0, or cluster-by='embedding'."
            )


class Participation(ParticipationKeys):
    """Which devices take part in a round, and how long the server waits for them.

    The keys are those of the run configuration, with ``_`` for ``-``.
    """


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """Which checkpoints and results a run writes on its way, and what it resumes from.

    Attributes
    ----------
    keep : int (default: 2)
        Checkpoints in the output folder; 0 writes none.
    resume : Path or None (default: None)
        A run's folder, or one checkpoint, to resume from.
    save_every : int (default: 0)
        Rounds between exports of the adapters; 0 exports them at the end only.
    """

    keep: int = 2
    resume: Path | None = None
    save_every: int = 0

    def __post_init__(self) -> None:
        check_values({"keep_checkpoints": self.keep, "save_every": self.save_every})

    def exports_after(self, server_round: int) -> bool:
        """Whether the adapters are exported after a round that is not the last one."""
        return bool(self.save_every and server_round and server_round % self.save_every == 0)

    @staticmethod
    def from_config(config: RunConfig) -> CheckpointSettings:
        """Return the settings of a run configuration."""
        return CheckpointSettings(
            keep=config.keep_checkpoints,
            resume=Path(config.resume) if config.resume else None,
            save_every=config.save_every,
        )


class ReplyRules(ReplyKeys):
    """What a reply must satisfy.

    The keys are those of the run configuration, with ``_`` for ``-``, and `max_examples`, the most
    examples that a device may claim. See `Sent` for their weight, and
    `flower_strategy.server.update_norms` for the limit on norms.
    """

    max_examples: int = 10_000_000

    @classmethod
    def from_config(cls, config: Keys) -> Self:
        """Return the rules of a run configuration."""
        return cls(**{name: getattr(config, name) for name in ReplyKeys.model_fields})


def _key(name: str) -> str:
    return _KEY_PREFIX + name.replace("_", "-")
