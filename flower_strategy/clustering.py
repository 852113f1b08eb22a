"""Which devices belong together: clusters of task embeddings with lasting names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import silhouette_score

from flower_strategy.adapter import FloatArray


@dataclass(frozen=True, kw_only=True)
class ClusteringSettings:
    """How devices are split.

    Attributes
    ----------
    threshold : float (default: 0.5)
        Silhouette that a split must reach. With SmolLM2, devices of one task stay under 0.32 and
        devices of three tasks reach 0.91, so 0.5 separates.
    most : int (default: 16)
        Most clusters that are tried.
    """

    threshold: float = 0.5
    most: int = 16


@dataclass(frozen=True, eq=False)
class Cluster:
    """Devices whose task embeddings lie together.

    Attributes
    ----------
    name : str
        Lasting name, ``cluster-0`` and so on.
    centroid : FloatArray
        Mean direction of the members' embeddings, shape (hidden,), unit length.
    members : tuple[int, ...]
        Node ids, ascending.
    """

    name: str
    centroid: FloatArray
    members: tuple[int, ...]


def centroid(embeddings: Iterable[FloatArray]) -> FloatArray:
    """Return the mean direction of unit vectors, unit length."""
    mean = np.mean(np.stack(list(embeddings)), axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), dtype=np.float32)


def split(embeddings: FloatArray, settings: ClusteringSettings) -> list[int]:
    """Return a group number for every row.

    Agglomerative clustering with average linkage on the cosine distance; the number of groups is
    the one with the highest silhouette (Rousseeuw, 1987), one when none reaches the threshold.

    Parameters
    ----------
    embeddings : FloatArray
        Shape (devices, hidden), rows of unit length.
    settings : ClusteringSettings
        Threshold and largest number.
    """
    count = len(embeddings)
    wide = embeddings.astype(np.float64)
    distances = np.clip(1.0 - wide @ wide.T, 0.0, 2.0)
    np.fill_diagonal(distances, 0.0)
    best, groups = settings.threshold, [0] * count
    if settings.threshold >= 1.0:
        return groups
    for number in range(2, min(count - 1, settings.most) + 1):
        labels = AgglomerativeClustering(
            n_clusters=number, metric="precomputed", linkage="average"
        ).fit_predict(distances)
        score = silhouette_score(distances, labels, metric="precomputed")
        # Equal scores keep the smaller number: fewer clusters have more devices each.
        if score > best or (score == best and not any(groups)):
            best, groups = float(score), [int(label) for label in labels]
    return groups


def cluster_devices(
    embeddings: Mapping[int, FloatArray],
    settings: ClusteringSettings,
    *,
    previous: Iterable[Cluster] = (),
    first_new: int = 0,
) -> list[Cluster]:
    """Cluster devices; clusters that were there before keep their names.

    New and old clusters are matched one to one so that the summed cosine distance of their
    centroids is least (Kuhn's assignment); what has no match gets the next unused number.

    Parameters
    ----------
    embeddings : Mapping[int, FloatArray]
        Node id -> task embedding, unit length.
    settings : ClusteringSettings
        Threshold and largest number.
    previous : Iterable[Cluster]
        The clusters so far.
    first_new : int
        Number of the next cluster that never existed.

    Returns
    -------
    list[Cluster]
        By name; every node in exactly one of them.
    """
    nodes = sorted(embeddings)
    if not nodes:
        return []
    groups = split(np.stack([embeddings[node] for node in nodes]), settings)
    members: dict[int, list[int]] = {}
    for node, group in zip(nodes, groups, strict=True):
        members.setdefault(group, []).append(node)
    found = list(members.values())
    centroids = [centroid(embeddings[node] for node in group) for group in found]
    old = list(previous)
    names: dict[int, str] = {}
    if old:
        distances = 1.0 - np.stack(centroids) @ np.stack([cluster.centroid for cluster in old]).T
        for row, column in zip(*linear_sum_assignment(distances), strict=True):
            names[int(row)] = old[int(column)].name
    clusters = []
    for row, devices in enumerate(found):
        if row not in names:
            names[row] = f"cluster-{first_new}"
            first_new += 1
        clusters.append(Cluster(names[row], centroids[row], tuple(devices)))
    return sorted(clusters, key=lambda cluster: (len(cluster.name), cluster.name))


def nearest(embedding: FloatArray, clusters: Iterable[Cluster]) -> Cluster:
    """Return the cluster whose centroid is closest in angle; where a newcomer belongs."""
    return max(clusters, key=lambda cluster: float(cluster.centroid @ embedding))
