"""Settings of the server's side: who takes part, how adapters are averaged, what is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flower_strategy.config import RunConfig, check_values

Weighting = Literal["exact", "rank-partitioned"]


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
