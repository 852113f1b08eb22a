"""Everything that a run knows between rounds, in one place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from flwr.app import ArrayRecord, MetricRecord

from flower_strategy.adapter import AdapterState
from flower_strategy.clustering import (
    Cluster,
    ClusteringSettings,
    centroid,
    cluster_devices,
    nearest,
)
from flower_strategy.profiles import DeviceProfile
from flower_strategy.ranks import RankDecision


@dataclass(kw_only=True)
class DeviceRound:
    """What one device did in one round.

    Attributes
    ----------
    cluster : str
        Its cluster.
    rank : int or None
        Rank that it trained at; None where it only evaluated.
    predicted_seconds, observed_seconds : float or None
        Seconds of training and upload, as predicted and as reported.
    bytes_down, bytes_up : int
        Bytes of the adapters sent to it and back, for training.
    num_examples : int
        Training examples, its weight in the mean.
    train_loss, held_out_loss : float or None
        Mean losses, nats per response token.
    held_out_tokens : int
        Response tokens that the held-out loss is measured on.
    """

    cluster: str
    rank: int | None = None
    predicted_seconds: float | None = None
    observed_seconds: float | None = None
    bytes_down: int = 0
    bytes_up: int = 0
    num_examples: int = 0
    train_loss: float | None = None
    held_out_loss: float | None = None
    held_out_tokens: int = 0


@dataclass(kw_only=True)
class ClusterRound:
    """What one cluster did in one round.

    Attributes
    ----------
    asked, replies : int
        Devices asked to train, and good replies.
    moved : bool
        Whether the cluster's adapter changed.
    train_loss : float or None
        Mean over the replies, weighted by examples.
    held_out_loss : float or None
        Mean over the members, weighted by tokens, with the adapter after this round.
    discarded_energy : float
        Share of the mean's squared singular values cut off at the bank's rank.
    """

    asked: int = 0
    replies: int = 0
    moved: bool = False
    train_loss: float | None = None
    held_out_loss: float | None = None
    discarded_energy: float = 0.0


@dataclass(frozen=True)
class Refusal:
    """A reply that was not used.

    Attributes
    ----------
    node : int
        The node.
    stage : str
        ``profile``, ``train`` or ``evaluate``.
    reason : str
        One sentence.
    """

    node: int
    stage: str
    reason: str


@dataclass(kw_only=True)
class RoundRecord:
    """One round; round 0 holds the evaluation before training.

    Attributes
    ----------
    round : int
        Its number.
    seconds : float
        Wall seconds of the whole round at the server.
    clusters : dict[str, ClusterRound]
        By cluster.
    devices : dict[int, DeviceRound]
        By node.
    refused : list[Refusal]
        Replies that were not used.
    """

    round: int
    seconds: float = 0.0
    clusters: dict[str, ClusterRound] = field(default_factory=dict)
    devices: dict[int, DeviceRound] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)

    def reasons(self) -> list[str]:
        """Return every refusal as one phrase."""
        return [f"node {refusal.node}: {refusal.reason}" for refusal in self.refused]

    def train_metrics(self) -> MetricRecord:
        """Fill in the clusters' training losses; return the round's sums and the mean loss."""
        devices = self.devices.values()
        trained = [device for device in devices if device.train_loss is not None]
        metrics = MetricRecord(
            {
                "replies": len(trained),
                "refused": len(self.refused),
                "bytes-down": sum(device.bytes_down for device in devices),
                "bytes-up": sum(device.bytes_up for device in devices),
            }
        )
        for name, outcome in self.clusters.items():
            outcome.train_loss = _mean(
                (device.train_loss, device.num_examples)
                for device in trained
                if device.cluster == name
            )
        loss = _mean((device.train_loss, device.num_examples) for device in trained)
        if loss is not None:
            metrics["train-loss"] = loss
        return metrics

    def evaluate_metrics(self) -> MetricRecord | None:
        """Fill in the clusters' held-out losses; return them and the mean, weighted by tokens."""
        measured = [device for device in self.devices.values() if device.held_out_loss is not None]
        metrics = MetricRecord()
        for name in sorted({device.cluster for device in measured}):
            loss = _mean(
                (device.held_out_loss, device.held_out_tokens)
                for device in measured
                if device.cluster == name
            )
            if loss is not None:
                self.clusters.setdefault(name, ClusterRound()).held_out_loss = loss
                metrics[f"{name}/held-out-loss"] = loss
        loss = _mean((device.held_out_loss, device.held_out_tokens) for device in measured)
        if loss is None:
            return None
        metrics["held-out-loss"] = loss
        return metrics


def _mean(weighted: Iterable[tuple[float | None, int]]) -> float | None:
    pairs = [(value, weight) for value, weight in weighted if value is not None]
    total = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / total if total else None


@dataclass(kw_only=True)
class RunState:
    """A run between two rounds; what is here is all that the next round depends on.

    Attributes
    ----------
    initial : AdapterState
        The adapter that every cluster began with, at the banks' rank.
    profiles : dict[int, DeviceProfile]
        Node -> what it told about itself.
    decisions : dict[int, RankDecision]
        Node -> its rank.
    clusters : list[Cluster]
        Clusters by name.
    clusters_made : int
        Number of cluster names ever given out.
    banks : dict[str, AdapterState]
        Cluster -> its adapter, scaling 1, terms ordered by singular value.
    history : list[RoundRecord]
        Rounds so far.
    """

    initial: AdapterState
    profiles: dict[int, DeviceProfile] = field(default_factory=dict)
    decisions: dict[int, RankDecision] = field(default_factory=dict)
    clusters: list[Cluster] = field(default_factory=list)
    clusters_made: int = 0
    banks: dict[str, AdapterState] = field(default_factory=dict)
    history: list[RoundRecord] = field(default_factory=list)

    def place(self, nodes: Sequence[int], settings: ClusteringSettings) -> None:
        """Cluster the first nodes; put later ones to the nearest centroid, which moves."""
        embeddings = {node: self.profiles[node].embedding for node in nodes}
        if not self.clusters:
            self.clusters = cluster_devices(embeddings, settings)
            self.clusters_made = len(self.clusters)
            self.banks = {cluster.name: self.initial for cluster in self.clusters}
            return
        for node in nodes:
            home = nearest(embeddings[node], self.clusters)
            members = tuple(sorted((*home.members, node)))
            middle = centroid(self.profiles[member].embedding for member in members)
            self.clusters[self.clusters.index(home)] = replace(
                home, members=members, centroid=middle
            )

    def reasons(self) -> list[str]:
        """Return why each device without a rank is left out, as one phrase each."""
        return [
            f"node {node}: {decision.reason}"
            for node, decision in self.decisions.items()
            if decision.rank is None
        ]

    def cluster_of(self, node: int) -> Cluster:
        """Return the cluster of a profiled node."""
        for cluster in self.clusters:
            if node in cluster.members:
                return cluster
        return nearest(self.profiles[node].embedding, self.clusters)

    def adapter(self, cluster: str, rank: int) -> AdapterState:
        """Return a cluster's adapter at a rank, terms beyond its own ready to learn."""
        return self.banks[cluster].resized(rank, fill=self.initial)

    def losses(self, cluster: str) -> list[float]:
        """Return a cluster's held-out losses, oldest first."""
        return [
            record.clusters[cluster].held_out_loss or 0.0
            for record in self.history
            if cluster in record.clusters and record.clusters[cluster].held_out_loss is not None
        ]

    def to_arrays(self) -> ArrayRecord:
        """Return all banks in one record, keys ``<cluster>/<layer>.lora_A`` and ``.lora_B``."""
        record = ArrayRecord()
        for name, bank in self.banks.items():
            record.update(bank.to_arrays(prefix=f"{name}/"))
        return record
