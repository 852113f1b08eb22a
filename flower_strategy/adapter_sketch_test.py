import numpy as np
import pytest

from flower_strategy.adapter_sketch import SKETCH_SIZE, sketch_adapter
from flower_strategy.adapters.adapter import AdapterState, LoraFactors


def adapter(task: int, device: int, *, rank: int, closeness: float) -> AdapterState:
    """Return an adapter whose B is partly that of a task and partly the device's own."""
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
