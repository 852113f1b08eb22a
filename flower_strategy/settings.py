"""The groups of settings that a program gives a strategy; a run configuration gives them all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flwr.app import ConfigRecord

from floe_plugins.errors import ConfigError
from flower_strategy.adapters.adapter import lora_scaling
from flower_strategy.config import RunConfig, check_values

Weighting = Literal["exact", "rank-partitioned"]

_KEY_PREFIX = "embedding-"


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What the server asks of a device; it travels in every message.

    Attributes
    ----------
    model : str
        Name of the base model.
    dtype : str (default: "float32")
        Type of the base model's weights.
    local_steps : int (default: 3)
        Optimizer steps per round.
    batch_size : int (default: 4)
        Examples per step.
    learning_rate : float (default: 2e-3)
        AdamW's learning rate.
    max_length : int (default: 64)
        Most tokens of an example.
    alpha : float (default: 0.0)
        LoRA's alpha; 0 means alpha = rank.
    rslora : bool (default: False)
        Whether alpha is divided by the root of the rank.
    eval_examples : int (default: 0)
        Most held-out examples per evaluation; 0 uses all.
    seed : int (default: 0)
        Seed of the run.
    proximal : float (default: 0.0)
        FedProx's mu, see `train_adapter`; 0 leaves the term out.
    clock : str (default: "virtual")
        How a simulated device is slow: on a ``"virtual"`` clock, or by waiting (``"real"``).
    """

    model: str
    dtype: str = "float32"
    local_steps: int = 3
    batch_size: int = 4
    learning_rate: float = 2e-3
    max_length: int = 64
    alpha: float = 0.0
    rslora: bool = False
    eval_examples: int = 0
    seed: int = 0
    proximal: float = 0.0
    clock: str = "virtual"

    def __post_init__(self) -> None:
        check_values(vars(self))

    def scaling(self, rank: int) -> float:
        """Return the factor in front of ``b @ a`` at a rank."""
        return lora_scaling(alpha=self.alpha, rank=rank, rslora=self.rslora)

    @staticmethod
    def from_config(config: RunConfig) -> TrainingSettings:
        """Take the settings out of a run configuration."""
        return TrainingSettings(
            **{name: getattr(config, name) for name in TrainingSettings.__dataclass_fields__}
        )

    def to_record(self) -> ConfigRecord:
        """Write the settings into a message's configuration."""
        return ConfigRecord({key.replace("_", "-"): value for key, value in vars(self).items()})

    @staticmethod
    def from_record(record: ConfigRecord) -> TrainingSettings:
        """Read the settings; other keys of the record are left alone."""
        known = TrainingSettings.__dataclass_fields__
        values: dict[str, Any] = {
            name: record[name.replace("_", "-")]
            for name in known
            if name.replace("_", "-") in record
        }
        return TrainingSettings(**values)


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings:
    """How a device embeds its task.

    Attributes
    ----------
    texts : int (default: 8)
        Local texts that are averaged over.
    max_length : int (default: 64)
        Most tokens of each text.
    noise : float (default: 0.0)
        Standard deviation of the Gaussian noise on every number of the average of the texts'
        vectors, which have length 1.
    """

    texts: int = 8
    max_length: int = 64
    noise: float = 0.0

    def __post_init__(self) -> None:
        check_values(
            {
                "embedding_texts": self.texts,
                "max_length": self.max_length,
                "embedding_noise": self.noise,
            }
        )

    @staticmethod
    def from_config(config: RunConfig) -> EmbeddingSettings:
        """Take the settings out of a run configuration."""
        return EmbeddingSettings(
            texts=config.embedding_texts,
            max_length=config.max_length,
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


@dataclass(frozen=True, kw_only=True)
class ClusteringSettings:
    """How devices are split.

    Attributes
    ----------
    threshold : float (default: 0.5)
        Silhouette that a split must reach. With SmolLM2, devices of one task stay under 0.32 and
        devices of three tasks reach 0.91, so 0.5 separates.
    separation : float (default: 3.0)
        How many standard errors of a device's embedding two clusters' centroids must be apart.
        A silhouette knows no scale: devices that all hold the same mixture of tasks differ by the
        texts that chance put into their samples, and a few of them always fall into two groups.
        With SmolLM2 and 8 texts such groups were 2.0 errors apart, devices of different tasks 4.9
        to 8.
    most : int (default: 16)
        Most clusters that are tried.
    smallest : int (default: 1)
        Fewest devices of a cluster; the devices of smaller ones join the nearest.
    by : str (default: "embedding")
        ``embedding`` splits by task embeddings, ``adapter`` by the B matrices that devices train in
        the first round.
    every : int (default: 0)
        Rounds after which devices embed their texts and are split anew; 0 never.
    """

    threshold: float = 0.5
    separation: float = 3.0
    most: int = 16
    smallest: int = 1
    by: Literal["embedding", "adapter"] = "embedding"
    every: int = 0

    @staticmethod
    def from_config(config: RunConfig) -> ClusteringSettings:
        """Take the settings out of a run configuration."""
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


@dataclass(frozen=True, kw_only=True)
class Participation:
    """Which devices take part in a round, and how long they are waited for.

    Attributes
    ----------
    min_nodes : int (default: 1)
        Nodes to wait for before the run begins, as long as for the replies of a stage.
    fraction_train : float (default: 1.0)
        Share of each cluster's devices that trains in a round, in (0, 1].
    fraction_evaluate : float (default: 1.0)
        Share of each cluster's devices that evaluates, in [0, 1].
    quorum : float (default: 1.0)
        Share of a stage's devices whose replies are waited for, in (0, 1].
    quorum_grace : float (default: 5.0)
        Seconds for the others once the quorum is there.
    rank_correction : bool (default: True)
        Whether observed seconds correct the predicted ones.
    readmit_every : int (default: 3)
        Rounds after which a device without a rank is measured again; 0 never.
    """

    min_nodes: int = 1
    fraction_train: float = 1.0
    fraction_evaluate: float = 1.0
    quorum: float = 1.0
    quorum_grace: float = 5.0
    rank_correction: bool = True
    readmit_every: int = 3

    def __post_init__(self) -> None:
        check_values(vars(self))

    @staticmethod
    def from_config(config: RunConfig) -> Participation:
        """Take the settings out of a run configuration."""
        return Participation(
            **{name: getattr(config, name) for name in Participation.__dataclass_fields__}
        )


@dataclass(frozen=True, kw_only=True)
class AggregationSettings:
    """How a cluster's adapters become one.

    Attributes
    ----------
    weighting : str (default: "exact")
        ``exact`` or ``rank-partitioned``, see `flower_strategy.adapters.mean`.
    global_share : float (default: 0.0)
        Share of the mean over all clusters in each cluster's, in [0, 1].
    momentum : float (default: 0.0)
        Server momentum, in [0, 1).
    """

    weighting: Weighting = "exact"
    global_share: float = 0.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        check_values(vars(self))

    @staticmethod
    def from_config(config: RunConfig) -> AggregationSettings:
        """Take the settings out of a run configuration."""
        return AggregationSettings(
            weighting=config.weighting,
            global_share=config.global_share,
            momentum=config.momentum,
        )


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """What is kept of a run while it goes.

    Attributes
    ----------
    keep : int (default: 2)
        Checkpoints in the output folder; 0 writes none.
    resume : Path or None (default: None)
        A run's folder, or one checkpoint, to go on from.
    """

    keep: int = 2
    resume: Path | None = None

    def __post_init__(self) -> None:
        check_values({"keep_checkpoints": self.keep})

    @staticmethod
    def from_config(config: RunConfig) -> CheckpointSettings:
        """Take the settings out of a run configuration."""
        return CheckpointSettings(
            keep=config.keep_checkpoints,
            resume=Path(config.resume) if config.resume else None,
        )


@dataclass(frozen=True, kw_only=True)
class ReplyRules:
    """What a reply must satisfy.

    Attributes
    ----------
    min_replies : int (default: 1)
        Good replies that a cluster needs to move; a smaller cluster needs all its members.
    max_examples : int (default: 10_000_000)
        Most examples that a device may claim; see `Sent` for what they count for.
    norm_limit : float (default: 10.0)
        How many times the length that the training asked for makes an update counts for at most;
        0 takes every length. See `flower_strategy.server.update_norms`.
    """

    min_replies: int = 1
    max_examples: int = 10_000_000
    norm_limit: float = 10.0

    def __post_init__(self) -> None:
        check_values({"min_replies": self.min_replies, "norm_limit": self.norm_limit})

    @staticmethod
    def from_config(config: RunConfig) -> ReplyRules:
        """Take the rules out of a run configuration."""
        return ReplyRules(min_replies=config.min_replies, norm_limit=config.norm_limit)


def _key(name: str) -> str:
    return _KEY_PREFIX + name.replace("_", "-")
