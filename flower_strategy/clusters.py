"""Clusters of devices by their task embeddings, with lasting names."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from scipy.spatial.distance import squareform  # type: ignore[import-untyped]
from sklearn.metrics import silhouette_score

from flower_strategy.adapters.adapter import AdapterState, Float32Array
from flower_strategy.settings import ClusteringSettings

# With SmolLM2, cosines within a task are 0.97 to 0.99, across tasks 0.59 to 0.72.
_SAME_TASK = 0.15


@dataclass(frozen=True, eq=False)
class Cluster:
    """Devices whose task embeddings are close to each other.

    Attributes
    ----------
    name : str
        Name that persists across rounds, ``cluster-0`` and so on.
    centroid : Float32Array
        Mean direction of the devices' embeddings, shape (hidden,), unit length.
    members : tuple[int, ...]
        Node ids, ascending.
    """

    name: str
    centroid: Float32Array
    members: tuple[int, ...]


def centroid(embeddings: Iterable[Float32Array]) -> Float32Array:
    """Return the mean direction of unit vectors, as a unit vector."""
    mean = np.mean(np.stack(list(embeddings)), axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), dtype=np.float32)


def split(features: Float32Array, settings: ClusteringSettings, *, error: float = 0.0) -> list[int]:
    """Return a group number for every row.

    Uses agglomerative clustering with average linkage on the cosine distance. The number of groups
    is the one with the highest silhouette (Rousseeuw, 1987), or 1 if none reaches the threshold.
    Rows of groups that are too small then join the nearest group that is large enough.

    Parameters
    ----------
    features : Float32Array
        Shape (devices, features), rows of unit length.
    settings : ClusteringSettings
        Threshold, separation, largest number, smallest size.
    error : float (default: 0.0)
        Standard error of a row, as a length; 0 if unknown, which disables the separation.
    """
    count = len(features)
    wide = features.astype(np.float64)
    distances = np.clip(1.0 - wide @ wide.T, 0.0, 2.0)
    np.fill_diagonal(distances, 0.0)
    best, groups = settings.threshold, [0] * count
    if settings.threshold >= 1.0:
        return groups
    if count < 3:
        return groups
    # Building the tree takes most of the time, and every number of groups is a cut of the same one.
    tree = linkage(squareform(distances, checks=False), method="average")
    for number in range(2, min(count - 1, settings.most) + 1):
        labels = fcluster(tree, number, criterion="maxclust") - 1
        # Merges at equal distance are cut together; the result was tried before, or is one group.
        if len(np.unique(labels)) < number:
            continue
        if _closest(features, labels) < settings.separation * error:
            continue
        score = silhouette_score(distances, labels, metric="precomputed")
        # A tie keeps the smaller number: fewer clusters have more devices each.
        if score > best or (score == best and not any(groups)):
            best, groups = float(score), [int(label) for label in labels]
    return _without_small(features, groups, settings.smallest)


def _closest(features: Float32Array, labels: NDArray[np.int_]) -> float:
    """Return the smallest distance between two groups' centroids."""
    centroids = np.stack([centroid(features[labels == label]) for label in np.unique(labels)])
    gaps = np.linalg.norm(centroids[:, None] - centroids[None], axis=2)
    return float(gaps[np.triu_indices(len(centroids), 1)].min())


def _without_small(features: Float32Array, groups: list[int], smallest: int) -> list[int]:
    sizes = Counter(groups)
    large = [group for group, size in sizes.items() if size >= smallest]
    if len(large) == len(sizes):
        return groups
    if not large:
        return [0] * len(groups)
    labels = np.array(groups)
    centroids = np.stack([centroid(features[labels == group]) for group in large])
    return [
        group if group in large else large[int(np.argmax(centroids @ row))]
        for group, row in zip(groups, features, strict=True)
    ]


def cluster_devices(
    embeddings: Mapping[int, Float32Array],
    settings: ClusteringSettings,
    *,
    errors: Mapping[int, float] | None = None,
    features: Mapping[int, Float32Array] | None = None,
    previous: Iterable[Cluster] = (),
    first_new: int = 0,
) -> list[Cluster]:
    """Cluster devices; clusters that existed before keep their names.

    New and old clusters are matched one to one so that the summed cosine distance of their
    centroids is minimal (Kuhn's assignment). A match counts only if the two share a device or are
    close to each other: a cluster of another task must not inherit a name and its adapter. A
    cluster without a match gets the next unused number.

    Parameters
    ----------
    embeddings : Mapping[int, Float32Array]
        Node id -> task embedding, unit length; centroids are computed from these.
    settings : ClusteringSettings
        Threshold, largest number, smallest size.
    errors : Mapping[int, float], optional
        Node id -> standard error of its embedding; used only without `features`.
    features : Mapping[int, Float32Array], optional
        Node id -> the features to cluster by, unit length; by default the task embeddings.
    previous : Iterable[Cluster]
        The clusters so far.
    first_new : int
        Number of the next new cluster.

    Returns
    -------
    list[Cluster]
        Sorted by name; every node is in exactly one.
    """
    nodes = sorted(embeddings)
    if not nodes:
        return []
    rows = np.stack([(features or embeddings)[node] for node in nodes])
    known = [errors[node] for node in nodes] if errors and features is None else [0.0]
    groups = split(rows, settings, error=float(np.median(known)))
    members: dict[int, list[int]] = {}
    for node, group in zip(nodes, groups, strict=True):
        members.setdefault(group, []).append(node)
    found = [
        Cluster("", centroid(embeddings[node] for node in devices), tuple(devices))
        for devices in members.values()
    ]
    names = _lasting_names(found, list(previous))
    clusters = []
    for index, cluster in enumerate(found):
        name = names.get(index)
        if name is None:
            name, first_new = f"cluster-{first_new}", first_new + 1
        clusters.append(replace(cluster, name=name))
    return sorted(clusters, key=lambda cluster: (len(cluster.name), cluster.name))


def _lasting_names(found: list[Cluster], previous: list[Cluster]) -> dict[int, str]:
    """Return index of a found cluster -> name of the previous cluster that it continues."""
    if not previous:
        return {}
    distances = (
        1.0
        - np.stack([cluster.centroid for cluster in found])
        @ np.stack([cluster.centroid for cluster in previous]).T
    )
    names = {}
    for row, column in zip(*linear_sum_assignment(distances), strict=True):
        new, old = found[int(row)], previous[int(column)]
        if set(new.members) & set(old.members) or distances[row, column] < _SAME_TASK:
            names[int(row)] = old.name
    return names


def nearest(embedding: Float32Array, clusters: Iterable[Cluster]) -> Cluster:
    """Return the cluster whose centroid is closest in angle; newcomers join it."""
    return max(clusters, key=lambda cluster: float(cluster.centroid @ embedding))


SKETCH_SIZE = 1024
"""Numbers in a sketch."""


def sketch_adapter(adapter: AdapterState, *, rank: int) -> Float32Array:
    """Return a sketch of an adapter's B matrices, by which devices can be clustered.

    FedLEASE (Wang et al., "Adaptive LoRA Experts Allocation and Selection for Federated
    Fine-Tuning", arXiv 2509.15087) clusters devices by the B matrices of a first round: A starts
    equal on all devices and changes little, B learns the task. Its measure is the cosine of two
    devices' B, averaged over the layers. With every layer's B scaled to unit length, that is the
    cosine of the concatenated layers, which a count sketch preserves (Charikar, Chen and
    Farach-Colton, 2002): the server holds a thousand numbers per device instead of its matrices.

    Parameters
    ----------
    adapter : AdapterState
        A trained adapter. Only adapters that started from the same A can be compared.
    rank : int
        Columns of B to use: the smallest rank of all devices.

    Returns
    -------
    Float32Array
        Shape (1024,), unit length; zeros for an adapter that learned nothing.
    """
    sketch = np.zeros(SKETCH_SIZE)
    for name, factors in sorted(adapter.layers.items()):
        columns = factors.b[:, :rank].ravel().astype(np.float64)
        length = np.linalg.norm(columns)
        if not length:
            continue
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        places = generator.integers(0, SKETCH_SIZE, columns.size)
        signs = generator.choice((-1.0, 1.0), columns.size)
        sketch += np.bincount(places, weights=signs * columns / length, minlength=SKETCH_SIZE)
    return np.asarray(sketch / max(float(np.linalg.norm(sketch)), 1e-12), dtype=np.float32)
