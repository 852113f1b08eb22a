"""The state of a run between rounds."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import uuid4

import numpy as np
from flwr.app import ArrayRecord

from floe_plugins.errors import ConfigError
from flower_strategy.adapters.adapter import AdapterState, Float32Array
from flower_strategy.clusters import Cluster, cluster_devices, nearest
from flower_strategy.profile import DeviceProfile
from flower_strategy.ranks.cost import RankDecision
from flower_strategy.server.best import Best
from flower_strategy.server.records import RoundRecord
from flower_strategy.server.uploads import Upload
from flower_strategy.settings import ClusteringSettings

BAND = 1.25
"""Observations within this factor of the current slowdown change nothing."""

AT_ONCE = 2.0
"""A round that is slower than the slowdown by this factor takes effect immediately."""

_CONFIRMATIONS = 2
_LIMIT = 1000.0


@dataclass(frozen=True)
class Slowdown:
    """How many times longer than profiled a device's training takes.

    Ranks follow from the slowdown, and a rank should not change every round. The slowdown therefore
    has a dead band: it changes only after two consecutive rounds outside the band on the same side,
    and becomes their geometric mean; the band moves with it. A round that takes twice as long
    changes it immediately, because the next round would miss its deadline. A value within a tenth
    of 1 becomes 1, so a device that recovers gets its rank back.

    Attributes
    ----------
    factor : float (default: 1.0)
        The slowdown that ranks are chosen with.
    outside : tuple[float, ...] (default: ())
        The latest consecutive ratios outside the band, all on one side of it.
    """

    factor: float = 1.0
    outside: tuple[float, ...] = ()

    def observed(self, ratio: float) -> Slowdown:
        """Return the slowdown after a round whose training took `ratio` times the profiled time."""
        ratio = min(max(ratio, 1.0 / _LIMIT), _LIMIT)
        if ratio >= AT_ONCE * self.factor:
            return Slowdown(ratio)
        if self.factor / BAND <= ratio <= self.factor * BAND:
            return Slowdown(self.factor)
        same_side = self.outside and (self.outside[-1] > self.factor) == (ratio > self.factor)
        outside = (*self.outside, ratio) if same_side else (ratio,)
        if len(outside) < _CONFIRMATIONS:
            return Slowdown(self.factor, outside)
        factor = math.exp(math.fsum(map(math.log, outside)) / len(outside))
        return Slowdown(1.0 if 1 / 1.1 < factor < 1.1 else factor)

    def late(self) -> Slowdown:
        """Return the slowdown after a round whose reply did not arrive in time."""
        return Slowdown(min(AT_ONCE * self.factor, _LIMIT))


@dataclass(kw_only=True)
class RunState:
    """A run between two rounds: everything that the next round depends on.

    Attributes
    ----------
    initial : AdapterState
        The adapter that every cluster starts with, at the server's rank.
    profiles : dict[int, DeviceProfile]
        Node -> its profile.
    left_since : dict[int, int]
        Node without a rank -> the round that left it out, or last measured it without success.
    decisions : dict[int, RankDecision]
        Node -> its rank.
    slowdowns : dict[int, Slowdown]
        Node -> its slowdown; nodes without one are as fast as profiled.
    links : dict[int, Slowdown]
        Node -> how many times longer its transport takes than by its bandwidth, where measured.
    sketches : dict[int, Float32Array]
        Node -> sketch of the B matrices that it trained first; empty unless devices are clustered
        by them.
    clusters : list[Cluster]
        Clusters by name.
    clusters_made : int
        Number of cluster names given out so far.
    cluster_adapters : dict[str, AdapterState]
        Cluster -> its adapter, scaling 1, terms ordered by singular value.
    best : dict[str, Best]
        Cluster -> its best adapter so far, and whether it has stopped training; clusters whose
        devices have measured no validation loss have none.
    run : str
        Name of the run, by which devices know the state that they keep of it.
    uploads : dict[int, Upload]
        Node -> what it last sent of its own adapter; devices that keep no state have none.
    steps : dict[int, int]
        Node -> steps that it has taken so far, its weight in the mean.
    stateless : set[int]
        Nodes that have replied without a state of their own.
    split_by_adapter : bool
        Whether the devices have been clustered by their adapters.
    history : list[RoundRecord]
        Rounds so far.
    """

    initial: AdapterState
    profiles: dict[int, DeviceProfile] = field(default_factory=dict)
    left_since: dict[int, int] = field(default_factory=dict)
    decisions: dict[int, RankDecision] = field(default_factory=dict)
    slowdowns: dict[int, Slowdown] = field(default_factory=dict)
    links: dict[int, Slowdown] = field(default_factory=dict)
    sketches: dict[int, Float32Array] = field(default_factory=dict)
    clusters: list[Cluster] = field(default_factory=list)
    clusters_made: int = 0
    cluster_adapters: dict[str, AdapterState] = field(default_factory=dict)
    best: dict[str, Best] = field(default_factory=dict)
    run: str = field(default_factory=lambda: uuid4().hex)
    uploads: dict[int, Upload] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    stateless: set[int] = field(default_factory=set)
    split_by_adapter: bool = False
    history: list[RoundRecord] = field(default_factory=list)

    # --------------------------------------------------------------- clusters

    def place(self, nodes: Sequence[int], settings: ClusteringSettings) -> None:
        """Cluster the first nodes; assign later ones to the nearest centroid, and update it."""
        if not self.clusters:
            self.recluster(settings)
            return
        if not nodes:
            return
        # Running sums: a mean over all devices per new node would take quadratic time.
        members = [list(cluster.members) for cluster in self.clusters]
        sums = [
            np.sum([self.profiles[member].embedding for member in own], axis=0, dtype=np.float64)
            for own in members
        ]
        middles = np.stack([cluster.centroid for cluster in self.clusters])
        for node in nodes:
            embedding = self.profiles[node].embedding
            home = int(np.argmax(middles @ embedding))
            members[home].append(node)
            sums[home] = sums[home] + embedding
            middles[home] = sums[home] / max(float(np.linalg.norm(sums[home])), 1e-12)
        self.clusters = [
            replace(cluster, members=tuple(sorted(own)), centroid=middle.copy())
            for cluster, own, middle in zip(self.clusters, members, middles, strict=True)
        ]

    def recluster(
        self, settings: ClusteringSettings, *, features: Mapping[int, Float32Array] | None = None
    ) -> list[str]:
        """Cluster all devices again; return one phrase per cluster that was added or removed.

        A cluster that continues keeps its name and its adapter. A new one starts with the adapter
        of the cluster that most of its devices were in. With other members a cluster that has
        stopped trains again, and its best adapter is looked for anew.

        Parameters
        ----------
        settings : ClusteringSettings
            How to split.
        features : Mapping[int, Float32Array], optional
            What to split by; task embeddings by default. Devices without features join the
            nearest centroid.
        """
        before = {node: cluster.name for cluster in self.clusters for node in cluster.members}
        known = {node: None for node in self.profiles if features is None or node in features}
        old = self.clusters
        self.clusters = cluster_devices(
            {node: self.profiles[node].embedding for node in known},
            settings,
            errors={node: self.profiles[node].embedding_error for node in known},
            features=features,
            previous=old,
            first_new=self.clusters_made,
        )
        names = {cluster.name for cluster in self.clusters}
        self.clusters_made += len(names - {cluster.name for cluster in old})
        adapters, events = self.cluster_adapters, []
        self.cluster_adapters = {}
        for cluster in self.clusters:
            parents = [before[node] for node in cluster.members if node in before]
            parent = max(sorted(set(parents)), key=parents.count, default=cluster.name)
            origin = cluster.name if cluster.name in adapters else parent
            self.cluster_adapters[cluster.name] = adapters.get(origin, self.initial)
            if old and origin != cluster.name:
                events.append(f"{cluster.name} is new and begins with the adapter of {origin}")
        events += [f"{cluster.name} ended" for cluster in old if cluster.name not in names]
        self.place([node for node in self.profiles if node not in known], settings)
        same = {cluster.name: cluster.members for cluster in old}
        self.best = {
            cluster.name: self.best[cluster.name]
            for cluster in self.clusters
            if cluster.name in self.best and same[cluster.name] == cluster.members
        }
        return events

    def cluster_of(self, node: int) -> Cluster:
        """Return the cluster of a profiled node."""
        for cluster in self.clusters:
            # Members are sorted.
            place = bisect_left(cluster.members, node)
            if place < len(cluster.members) and cluster.members[place] == node:
                return cluster
        return nearest(self.profiles[node].embedding, self.clusters)

    def adapter(self, cluster: str, rank: int, *, best: bool = False) -> AdapterState:
        """Return a cluster's adapter, or its best one, at a rank, every term able to learn."""
        return self.able(self.served(cluster) if best else self.cluster_adapters[cluster], rank)

    def able(self, adapter: AdapterState, rank: int) -> AdapterState:
        """Return an adapter at a rank, every term able to learn."""
        return adapter.resized(rank, fill=self.initial).balanced(self.initial)

    def served(self, cluster: str) -> AdapterState:
        """Return the adapter of a cluster that is exported: its best one so far."""
        best = self.best.get(cluster)
        return self.cluster_adapters[cluster] if best is None else best.adapter

    def stopped(self, node: int) -> bool:
        """Return whether a device's cluster has stopped training."""
        best = self.best.get(self.cluster_of(node).name) if self.best else None
        return best is not None and best.stopped_in is not None

    def kept_models(self) -> dict[int, str]:
        """Return node -> the model that it keeps, for devices that have chosen one."""
        return {
            node: device.keeps
            for record in self.history
            for node, device in record.devices.items()
            if device.keeps
        }

    def has_sketch(self, node: int) -> bool:
        """Return whether there is a sketch of a device that has learned something."""
        return node in self.sketches and bool(self.sketches[node].any())

    @property
    def moved_unsketched(self) -> bool:
        """Whether clusters have moved in a run that kept no sketches."""
        moved = any(o.moved for record in self.history for o in record.clusters.values())
        return moved and not self.sketches

    # ---------------------------------------------------------------- devices

    def slowdown_factors(self) -> dict[int, float]:
        """Return node -> how many times longer than profiled its training takes.

        Built anew at each call; use `slowdowns` for a single node.
        """
        return {node: slowdown.factor for node, slowdown in self.slowdowns.items()}

    def reasons(self) -> list[str]:
        """Return one phrase per device without a rank: why it is left out."""
        return [
            f"node {node}: {decision.reason}"
            for node, decision in self.decisions.items()
            if decision.rank is None
        ]

    def sample(
        self, nodes: Sequence[int], fraction: float, seed: Sequence[int], *, least: int = 1
    ) -> list[int]:
        """Return a share of each cluster's nodes, at least `least` of each, in the given order.

        Every device has a number that follows from the seed and from its identity, not from its
        node id in this run; those with the smallest are drawn. With the same seed a device that
        is away is therefore replaced by one other, and all others are drawn as before.

        Parameters
        ----------
        nodes : Sequence[int]
            The nodes to draw from.
        fraction : float
            Share to draw, in (0, 1].
        seed : Sequence[int]
            Such as (seed of the run, round). Another seed is another draw.
        least : int (default: 1)
            Fewest nodes of a cluster; all of them if it has no more.
        """
        if fraction >= 1.0:
            return list(nodes)
        chosen: set[int] = set()
        for cluster in self.clusters:
            present = set(nodes) & set(cluster.members)
            count = max(least, round(fraction * len(present)))
            chosen |= set(sorted(present, key=lambda node: self._drawn_as(node, seed))[:count])
        return [node for node in nodes if node in chosen]

    def keeps_state(self, node: int) -> bool:
        """Return whether a device keeps an adapter of its own: by its replies, else its profile."""
        if node in self.uploads:
            return True
        return node not in self.stateless and self.profiles[node].keeps_state

    def _drawn_as(self, node: int, seed: Sequence[int]) -> tuple[bytes, int]:
        """Return a device's number in a draw; nodes of one identity follow their ids."""
        who = self.profiles[node].identity or str(node)
        return hashlib.sha256(f"{tuple(seed)} {who}".encode()).digest(), node

    def rename(self, names: Mapping[int, int]) -> None:
        """Rename devices to their node ids in this run, in the history as well."""

        def new(node: int) -> int:
            return names.get(node, node)

        self.profiles = {new(node): profile for node, profile in self.profiles.items()}
        self.left_since = {new(node): number for node, number in self.left_since.items()}
        self.decisions = {new(node): decision for node, decision in self.decisions.items()}
        self.slowdowns = {new(node): slowdown for node, slowdown in self.slowdowns.items()}
        self.links = {new(node): link for node, link in self.links.items()}
        self.sketches = {new(node): sketch for node, sketch in self.sketches.items()}
        self.uploads = {new(node): upload for node, upload in self.uploads.items()}
        self.steps = {new(node): count for node, count in self.steps.items()}
        self.stateless = {new(node) for node in self.stateless}
        self.clusters = [
            replace(cluster, members=tuple(sorted(map(new, cluster.members))))
            for cluster in self.clusters
        ]
        for name, best in self.best.items():
            losses = {new(node): measured for node, measured in best.losses.items()}
            self.best[name] = replace(best, losses=losses)
        for record in self.history:
            record.devices = {new(node): device for node, device in record.devices.items()}
            record.left_out = {new(node): reason for node, reason in record.left_out.items()}
            record.refused = [
                replace(refusal, node=new(refusal.node)) for refusal in record.refused
            ]

    # ----------------------------------------------------------------- result

    def losses(self, cluster: str, *, until: int | None = None) -> list[float]:
        """Return a cluster's held-out losses, oldest first, up to a round."""
        records = (each for each in self.history if until is None or each.round <= until)
        outcomes = (record.clusters.get(cluster) for record in records)
        losses = (outcome.held_out_loss for outcome in outcomes if outcome is not None)
        return [loss for loss in losses if loss is not None]

    def to_arrays(self, *, best: bool = False) -> ArrayRecord:
        """Return all adapters in one record, keys ``<cluster>/<layer>.lora_A`` and ``.lora_B``.

        With `best` they are those that are exported.
        """
        record = ArrayRecord()
        for name, adapter in self.cluster_adapters.items():
            found = self.served(name) if best else adapter
            record.update(found.to_arrays(prefix=f"{name}/"))
        return record


def initial_adapter_at(arrays: ArrayRecord, *, rank: int) -> AdapterState:
    """Return the adapter that every cluster starts with, at the server's rank.

    Raises
    ------
    ConfigError
        The rank of the arrays is smaller.
    """
    adapter = AdapterState.from_arrays(arrays)
    if adapter.rank < rank:
        raise ConfigError(
            f"The initial adapter has rank {adapter.rank}; candidates and export need {rank}."
        )
    return adapter.resized(rank)
