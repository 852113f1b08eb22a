import numpy as np
import pytest
from numpy.typing import NDArray

from flower_strategy.adapters.adapter import AdapterState, LoraFactors
from flower_strategy.clusters import (
    SKETCH_SIZE,
    Cluster,
    centroid,
    cluster_devices,
    nearest,
    sketch_adapter,
    split,
)
from flower_strategy.settings import ClusteringSettings

SETTINGS = ClusteringSettings()


def around(direction: int, count: int, *, noise: float, seed: int) -> list[NDArray[np.float32]]:
    generator = np.random.default_rng(seed)
    vectors = []
    for _ in range(count):
        vector = np.eye(24)[direction] + generator.normal(scale=noise, size=24)
        vectors.append((vector / np.linalg.norm(vector)).astype(np.float32))
    return vectors


def test_three_tasks_make_three_clusters_of_the_right_devices() -> None:
    vectors = [v for task in range(3) for v in around(task, 4, noise=0.05, seed=task)]
    order = np.random.default_rng(0).permutation(12)
    clusters = cluster_devices({100 + int(i): vectors[int(i)] for i in order}, SETTINGS)
    assert [cluster.members for cluster in clusters] == [
        (100, 101, 102, 103),
        (104, 105, 106, 107),
        (108, 109, 110, 111),
    ]
    assert [cluster.name for cluster in clusters] == ["cluster-0", "cluster-1", "cluster-2"]


def test_one_task_makes_one_cluster() -> None:
    vectors = around(0, 9, noise=0.1, seed=3)
    assert len(cluster_devices(dict(enumerate(vectors)), SETTINGS)) == 1


def test_one_or_two_devices_make_one_cluster() -> None:
    far = [*around(0, 1, noise=0.0, seed=0), *around(1, 1, noise=0.0, seed=0)]
    assert split(np.stack(far), SETTINGS) == [0, 0]
    assert split(np.stack(far[:1]), SETTINGS) == [0]
    assert cluster_devices({}, SETTINGS) == []


def test_a_threshold_of_one_never_splits() -> None:
    vectors = np.stack([v for task in range(2) for v in around(task, 3, noise=0.0, seed=0)])
    assert split(vectors, ClusteringSettings(threshold=1.0)) == [0] * 6
    assert len(set(split(vectors, ClusteringSettings(threshold=0.99)))) == 2


def test_names_last_when_clusters_come_back_in_another_order_and_new_ones_appear() -> None:
    first = cluster_devices(
        dict(enumerate([v for t in (0, 1) for v in around(t, 3, noise=0.05, seed=t)])), SETTINGS
    )
    homes = {cluster.name: cluster.members for cluster in first}
    # Node 0's cluster now sorts behind the others, and a third task has joined.
    moved = [v for t in (1, 2, 0) for v in around(t, 3, noise=0.05, seed=t + 10)]
    second = cluster_devices(dict(enumerate(moved)), SETTINGS, previous=first, first_new=2)
    found = {cluster.name: cluster.members for cluster in second}
    assert homes == {"cluster-0": (0, 1, 2), "cluster-1": (3, 4, 5)}
    assert found == {"cluster-0": (6, 7, 8), "cluster-1": (0, 1, 2), "cluster-2": (3, 4, 5)}


def test_a_newcomer_goes_to_the_nearest_centroid() -> None:
    clusters = [
        Cluster(f"cluster-{t}", centroid(around(t, 3, noise=0.05, seed=t)), (t,)) for t in range(3)
    ]
    (newcomer,) = around(2, 1, noise=0.2, seed=9)
    assert nearest(newcomer, clusters).name == "cluster-2"


def test_a_centroid_has_unit_length() -> None:
    assert np.linalg.norm(centroid(around(0, 5, noise=0.3, seed=1))) == pytest.approx(1.0)


def test_one_mixture_on_all_devices_makes_one_cluster_where_chance_would_make_two() -> None:
    generator = np.random.default_rng(0)
    tasks = np.eye(24)[:2]
    by_silhouette = by_both = 0
    for _ in range(40):
        # Six devices with eight texts each, drawn from two tasks with equal chance.
        texts = tasks[generator.integers(0, 2, (6, 8))] + generator.normal(0, 0.05, (6, 8, 24))
        means = texts.mean(axis=1)
        lengths = np.linalg.norm(means, axis=1)
        errors = np.sqrt(np.square(texts - means[:, None]).sum((1, 2)) / (8 * 7)) / lengths
        rows = (means / lengths[:, None]).astype(np.float32)
        by_silhouette += len(set(split(rows, SETTINGS))) > 1
        by_both += len(set(split(rows, SETTINGS, error=float(np.median(errors))))) > 1
    assert by_silhouette > 20
    assert by_both <= 2
    # One task per device: many standard errors apart.
    texts = tasks[[0, 0, 0, 1, 1, 1]][:, None] + generator.normal(0, 0.2, (6, 8, 24))
    means = texts.mean(axis=1)
    rows = (means / np.linalg.norm(means, axis=1)[:, None]).astype(np.float32)
    assert split(rows, SETTINGS, error=0.2) == [0, 0, 0, 1, 1, 1] or split(
        rows, SETTINGS, error=0.2
    ) == [1, 1, 1, 0, 0, 0]


def adapter(task: int, device: int, *, rank: int, closeness: float) -> AdapterState:
    """Return an adapter whose B is part a task's and part the device's own."""
    layers = {}
    for number, rows in enumerate((300, 500, 200)):
        common = np.random.default_rng([task, number]).normal(size=(rows, 16))
        own = np.random.default_rng([task, device, number, 7]).normal(size=(rows, 16))
        b = closeness * common + (1 - closeness) * own
        layers[f"layer.{number}"] = LoraFactors(
            b=(10.0**number * b[:, :rank]).astype(np.float32), a=np.ones((rank, 8), np.float32)
        )
    return AdapterState(layers)


def mean_layer_cosine(one: AdapterState, two: AdapterState, rank: int) -> float:
    cosines = []
    for name in one.layers:
        p, q = one.layers[name].b[:, :rank].ravel(), two.layers[name].b[:, :rank].ravel()
        cosines.append(p @ q / np.linalg.norm(p) / np.linalg.norm(q))
    return float(np.mean(cosines))


@pytest.mark.parametrize("ranks", [(4, 4), (4, 16)])
def test_the_sketch_keeps_the_mean_cosine_of_the_layers(ranks: tuple[int, int]) -> None:
    one = adapter(0, 0, rank=ranks[0], closeness=0.6)
    for task, device in ((0, 1), (1, 1)):
        two = adapter(task, device, rank=ranks[1], closeness=0.6)
        found = float(sketch_adapter(one, rank=4) @ sketch_adapter(two, rank=4))
        # The error of a count sketch is about one over the root of its size, here 0.03.
        assert found == pytest.approx(mean_layer_cosine(one, two, 4), abs=0.1)


def test_an_adapter_that_learned_nothing_has_an_empty_sketch() -> None:
    layers = {"x": LoraFactors(b=np.zeros((9, 2), np.float32), a=np.ones((2, 3), np.float32))}
    np.testing.assert_array_equal(
        sketch_adapter(AdapterState(layers), rank=2), np.zeros(SKETCH_SIZE, np.float32)
    )
