"""The run configuration's keys of what the server decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flower_strategy import config_keys as keys


@dataclass(frozen=True, kw_only=True)
class ServerKeys:
    """Rounds, ranks, clusters, aggregation, replies, what is written."""

    rounds: int = keys.keyed(3, keys.integer("Rounds of training.", low=1, high=100_000))
    ranks: tuple[int, ...] = keys.keyed(
        (4, 8, 16, 32), keys.ranks("The LoRA ranks that a device can be given.")
    )
    export_rank: int = keys.keyed(
        16, keys.export_rank("Rank of the exported adapters, one that vLLM accepts.")
    )
    round_deadline: float = keys.keyed(
        0.0,
        keys.number(
            "Seconds that a device may take for a round, training and upload, by which its rank "
            "is chosen; 0 takes what the slowest device needs at the smallest rank.",
            low=0,
            high=1e7,
        ),
    )
    round_timeout: float = keys.keyed(
        3600.0,
        keys.number(
            "Seconds that the server waits for a round's replies.", low=0, high=1e7, above=True
        ),
    )
    min_nodes: int = keys.keyed(
        1,
        keys.integer(
            "Nodes to wait for before the run begins, round-timeout seconds at most.",
            low=1,
            high=1_000_000,
        ),
    )
    min_replies: int = keys.keyed(
        1,
        keys.integer(
            "Good replies that a cluster needs to move; with fewer it keeps its adapter. A "
            "smaller cluster needs all its members.",
            low=1,
            high=1_000_000,
        ),
    )
    silhouette: float = keys.keyed(
        0.5,
        keys.number(
            "Silhouette from which devices are split into clusters; 1 never splits.", low=0, high=1
        ),
    )
    separation: float = keys.keyed(
        3.0,
        keys.number(
            "Standard errors of a device's embedding that two clusters must be apart; 0 asks for "
            "no distance.",
            low=0,
            high=1000,
        ),
    )
    output: str = keys.keyed(
        "floe-runs/latest",
        keys.text(
            "Folder for adapters, manifest and history. A relative path counts from where the "
            "SuperLink was started: in a simulation, where the first flwr run was typed."
        ),
    )
    rank_policy: str = keys.keyed(
        "deadline",
        keys.name(
            "How a device gets its rank: 'deadline' takes the largest that fits the round's "
            "deadline and the memory, 'memory' the largest that fits the memory, 'fixed' what "
            "fixed-ranks says, 'uniform-min' gives all what the weakest affords.",
            "deadline",
            "memory",
            "fixed",
            "uniform-min",
        ),
    )
    fixed_ranks: str = keys.keyed(
        "",
        keys.text(
            "Ranks of the policy 'fixed': one number for all, or CLASS:RANK for each device "
            "class, separated by commas.",
            empty=True,
        ),
    )
    rank_correction: bool = keys.keyed(
        True, keys.flag("Correct each device's predicted seconds by what its rounds took.")
    )
    readmit_every: int = keys.keyed(
        3,
        keys.integer(
            "Rounds after which a device that was left out is measured again; 0 never asks again.",
            low=0,
            high=100_000,
        ),
    )
    fraction_train: float = keys.keyed(
        1.0,
        keys.number(
            "Share of each cluster's devices that trains in a round, at least one.",
            low=0,
            high=1,
            above=True,
        ),
    )
    fraction_evaluate: float = keys.keyed(
        1.0,
        keys.number(
            "Share of each cluster's devices that evaluates in a round, at least one; 0 does not "
            "evaluate.",
            low=0,
            high=1,
        ),
    )
    quorum: float = keys.keyed(
        1.0,
        keys.number(
            "Share of a round's devices whose replies are waited for; then the others have "
            "quorum-grace seconds left.",
            low=0,
            high=1,
            above=True,
        ),
    )
    quorum_grace: float = keys.keyed(
        5.0, keys.number("Seconds for late replies once the quorum is there.", low=0, high=1e7)
    )
    norm_limit: float = keys.keyed(
        10.0,
        keys.number(
            "An update counts for at most this many times the length that local-steps at "
            "learning-rate make; of five or more, one ten times longer still is refused. 0 takes "
            "every length.",
            low=0,
            high=1e9,
        ),
    )
    cluster_by: Literal["embedding", "adapter"] = keys.keyed(
        "embedding",
        keys.choice(
            "What devices are clustered by: 'embedding' of their texts, or the B matrices of the "
            "'adapter' that they train in the first round (as FedLEASE).",
            "embedding",
            "adapter",
        ),
    )
    recluster_every: int = keys.keyed(
        0,
        keys.integer(
            "Rounds after which devices embed their texts anew and are clustered again; 0 never.",
            low=0,
            high=100_000,
        ),
    )
    min_cluster_size: int = keys.keyed(
        1,
        keys.integer(
            "Fewest devices of a cluster; smaller ones join the nearest.", low=1, high=1_000_000
        ),
    )
    weighting: Literal["exact", "rank-partitioned"] = keys.keyed(
        "exact",
        keys.choice(
            "How adapters of different ranks are averaged: 'exact' is the mean of the updates; "
            "'rank-partitioned' averages each rank term over the devices that have it.",
            "exact",
            "rank-partitioned",
        ),
    )
    global_share: float = keys.keyed(
        0.0,
        keys.number("Share of the mean over all clusters in each cluster's.", low=0, high=1),
    )
    momentum: float = keys.keyed(
        0.0,
        keys.number("Server momentum on the clusters' updates; 0 has none.", low=0, high=0.999),
    )
    keep_checkpoints: int = keys.keyed(
        2,
        keys.integer(
            "Checkpoints kept in the output folder; 0 writes none, and the run cannot be resumed.",
            low=0,
            high=100_000,
        ),
    )
    resume: str = keys.keyed(
        "",
        keys.text(
            "Folder of a run, or of one checkpoint, to continue from; empty begins anew.",
            empty=True,
        ),
    )
