"""The benchmark of quality, on a tiny random Llama: its arithmetic and its bookkeeping."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.container import ErrorbarContainer

from floe_plugins.errors import ConfigError
from flower_strategy.adapters.adapter import AdapterState, Float32Array, LoraFactors
from flower_strategy.device.base_model import load_base_model
from flower_strategy.device.hardware import DEVICE_CLASSES
from integration_tests.benchmarks.federated_quality import world
from integration_tests.benchmarks.federated_quality.__main__ import main
from integration_tests.benchmarks.federated_quality.figure import draw
from integration_tests.benchmarks.federated_quality.measure import (
    Journal,
    Record,
    Task,
    plan,
    run_task,
    summarise,
)
from integration_tests.benchmarks.federated_quality.methods import (
    METHODS,
    FedAvg,
    FlexLora,
    Flora,
    HetLora,
    affordable_ranks,
    decomposed_mean,
    factor_mean,
    joined,
    product_norm,
    run_floe,
    stack,
    zero_padded_mean,
)
from integration_tests.benchmarks.federated_quality.result import conclusions, rows

SHAPES = {"one": (12, 9), "two": (7, 10)}


def adapters(ranks: tuple[int, ...], *, scaling: float = 1.0) -> list[AdapterState]:
    generator = np.random.default_rng(0)
    return [
        AdapterState(
            {
                name: LoraFactors(
                    b=generator.normal(size=(out, rank)).astype(np.float32),
                    a=generator.normal(size=(rank, inner)).astype(np.float32),
                )
                for name, (out, inner) in SHAPES.items()
            },
            scaling,
        )
        for rank in ranks
    ]


def dense_mean(given: list[AdapterState], weights: list[float], layer: str) -> Float32Array:
    total = sum(weights)
    moves = [weight / total * one.delta(layer) for weight, one in zip(weights, given, strict=True)]
    return np.asarray(np.sum(moves, axis=0), dtype=np.float32)


# ----------------------------------------------------------------- averaging


def test_fedavg_averages_the_factors_each_for_itself() -> None:
    given = adapters((3, 3), scaling=0.5)
    mean = factor_mean(given, [1, 3])
    assert mean.scaling == 0.5
    for name in SHAPES:
        left, right = (one.layers[name] for one in given)
        np.testing.assert_allclose(mean.layers[name].a, 0.25 * left.a + 0.75 * right.a, rtol=1e-5)
        np.testing.assert_allclose(mean.layers[name].b, 0.25 * left.b + 0.75 * right.b, rtol=1e-5)
        assert not np.allclose(mean.delta(name), dense_mean(given, [1, 3], name), rtol=0.1)


def test_hetlora_pads_with_zeros_and_weighs_by_the_norm_of_the_update() -> None:
    small, large = adapters((2, 5), scaling=2.0)
    norms = [
        float(np.sqrt(sum(np.sum(one.delta(name) ** 2) for name in SHAPES)))
        for one in (small, large)
    ]
    assert product_norm(small) == pytest.approx(norms[0], rel=1e-5)
    share = norms[0] / sum(norms)
    mean = zero_padded_mean([small, large], 5)
    for name in SHAPES:
        padded = np.pad(small.layers[name].a, ((0, 3), (0, 0)))
        expected = share * padded + (1 - share) * large.layers[name].a
        np.testing.assert_allclose(mean.layers[name].a, expected, rtol=1e-4, atol=1e-6)
        padded = np.pad(small.layers[name].b, ((0, 0), (0, 3)))
        expected = share * padded + (1 - share) * large.layers[name].b
        np.testing.assert_allclose(mean.layers[name].b, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rank", [2, 6])
def test_flexlora_is_the_decomposition_of_the_dense_mean(rank: int) -> None:
    given = adapters((2, 5), scaling=0.5)
    mean = decomposed_mean(given, [2, 1], rank)
    for name in SHAPES:
        left, values, right = np.linalg.svd(dense_mean(given, [2, 1], name), full_matrices=False)
        best = (left[:, :rank] * values[:rank]) @ right[:rank]
        np.testing.assert_allclose(mean.delta(name), best, rtol=1e-3, atol=1e-4)
        rows = mean.layers[name].a
        np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-4)


def test_floras_stack_is_the_mean_product_exactly_and_sums_of_stacks_add_up() -> None:
    given = adapters((2, 5), scaling=0.5)
    stacked = stack(given, [2, 1])
    assert stacked.rank == 7
    twice = joined([stacked, stacked])
    for name in SHAPES:
        mean = dense_mean(given, [2, 1], name)
        np.testing.assert_allclose(stacked.delta(name), mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(twice.delta(name), 2 * mean, rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------- clock


def test_a_round_takes_what_its_slowest_device_needs_and_none_begins_too_late() -> None:
    protocol = world.Protocol(step_seconds=(1.0, 0.5), local_steps=2, downlink=4.0)
    phone, laptop = DEVICE_CLASSES["phone"], DEVICE_CLASSES["laptop"]
    load = world.Load(rank=2, bytes_down=1_000_000, bytes_up=500_000)
    # 4 MB/s down, 0.25 up, two steps of 1 + 0.5 * 2 seconds, three times slower.
    assert world.load_seconds(phone, load, protocol) == pytest.approx(1.0 + 2 * 2 * 3 + 2.0)
    clock = world.Clock({0: phone, 1: laptop}, protocol, budget=31.0)
    for _ in range(2):
        clock.begin_round({0: load, 1: load})
    with pytest.raises(world.BudgetSpentError):
        clock.begin_round({0: load, 1: load})
    assert clock.rounds == 2
    assert clock.seconds == pytest.approx(30.0)
    assert (clock.bytes_up, clock.bytes_down) == (2_000_000, 4_000_000)


# ------------------------------------------------------------------- methods


@pytest.fixture(scope="module")
def protocol(tiny_model: str) -> world.Protocol:
    return world.Protocol(
        model=tiny_model,
        clients=6,
        ranks=(2, 4, 8),
        budget=15.0,
        local_steps=3,
        learning_rate=0.02,
        max_length=48,
        eval_examples=4,
        step_seconds=(0.5, 0.01),
    )


@pytest.fixture(scope="module")
def bench(protocol: world.Protocol) -> world.Workbench:
    return world.Workbench(world.World(protocol, level=0.0, seed=0))


def test_base_weights_come_back_bit_for_bit(tiny_model: str, bench: world.Workbench) -> None:
    base = load_base_model(tiny_model)
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    (initial,) = (bench.world.initial(4),)
    trained = bench.train(0, initial, server_round=1).adapter
    layer = next(iter(trained.layers))
    with world.moved(base, trained):
        found = base.model.get_submodule(layer).weight.numpy()
        expected = before[f"{layer}.weight"].numpy() + trained.delta(layer)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert not np.array_equal(found, before[f"{layer}.weight"].numpy())
    for name, weight in base.model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_training_on_a_merged_move_is_training_beside_it(bench: world.Workbench) -> None:
    """A frozen move with an untrained adapter has the loss of that move as an adapter."""
    trained = bench.train(0, bench.world.initial(4), server_round=1).adapter
    with world.moved(bench.world.base, trained):
        merged = bench.held_out(0, bench.world.initial(4, variant=1))
    assert merged == pytest.approx(bench.held_out(0, trained), rel=1e-5)
    assert merged != pytest.approx(bench.held_out(0, bench.world.initial(4)), rel=1e-3)


def test_stronger_devices_train_at_higher_ranks(bench: world.Workbench) -> None:
    ranks = affordable_ranks(bench)
    assert sorted(ranks) == list(range(6))
    assert ranks[0] == 2
    assert ranks[2] == 8
    fedavg = FedAvg(bench, ranks)
    assert {fedavg.adapter_for(node).rank for node in ranks} == {2}
    for method in (HetLora, FlexLora, Flora):
        federation = method(bench, ranks)
        assert {node: federation.adapter_for(node).rank for node in ranks} == ranks


def test_a_round_of_floe_and_of_flexlora_is_the_same_mean_where_there_is_one_cluster(
    protocol: world.Protocol,
) -> None:
    one_round = replace(protocol, budget=7.0)
    bench = world.Workbench(world.World(one_round, level=1.0, seed=0))
    floe = run_floe(bench)
    trained = bench.trainings
    flexlora = METHODS["flexlora"](bench)
    assert floe.clock.rounds == flexlora.clock.rounds == 1
    assert floe.details["clusters"] == [[0, 1, 2, 3, 4, 5]]
    assert bench.trainings == trained, "the first round's training is the same for both"
    for node, adapter in floe.served.items():
        for layer in adapter.layers:
            np.testing.assert_allclose(
                adapter.delta(layer), flexlora.served[node].delta(layer), atol=1e-5
            )


def test_floras_devices_download_the_whole_stack(bench: world.Workbench) -> None:
    flora = Flora(bench, {0: 2, 1: 4})
    loads = flora.loads({node: flora.adapter_for(node) for node in flora.ranks})
    assert loads[0].bytes_down == loads[1].bytes_down == loads[0].bytes_up + loads[1].bytes_up
    assert loads[1].bytes_up == 2 * loads[0].bytes_up


def test_what_is_remembered_is_what_would_be_trained(bench: world.Workbench) -> None:
    again = world.Workbench(bench.world, remember=False)
    methods = ("floe", "hetlora", "flexlora", "flora")
    ways = {}
    for way in (world.Workbench(bench.world), again):
        ways[way] = {
            name: [
                way.held_out(node, adapter)
                for node, adapter in sorted(METHODS[name](way).served.items())
            ]
            for name in methods
        }
    remembered, anew = ways
    for name in methods:
        # Two trainings of one adapter may differ in the last bit, by where its arrays lie.
        assert ways[remembered][name] == pytest.approx(ways[anew][name], rel=1e-5), name
    assert remembered.trainings == anew.trainings - 3 * 6


# ------------------------------------------------------------ the whole thing


def test_every_method_uses_the_same_budget(
    tiny_model: str, tmp_path: Path, values_of: Callable[..., Any]
) -> None:
    journal = tmp_path / "results.jsonl"
    arguments = [
        *("--model", tiny_model, "--data", "embedded", "--ranks", "2,4,8", "--budget", "15"),
        *("--local-steps", "3", "--learning-rate", "0.02", "--max-length", "48"),
        *("--eval-examples", "4", "--step-seconds", "0.5,0.01"),
        *("--seeds", "0", "--levels", "1,0", "--jobs", "1"),
        *("--resume", str(journal), "--methods", ",".join(METHODS)),
    ]
    values = values_of(main, *arguments)
    assert list(values["levels"]) == ["1", "0"]
    for methods in values["levels"].values():
        assert sorted(methods) == sorted(METHODS)
        assert methods["untrained"]["steps"] == 0
        for name, figures in methods.items():
            assert 0 < figures["loss_mean"] < 10
            assert figures["loss_std"] == 0.0
            assert figures["gap_mean"] == pytest.approx(
                figures["loss_mean"] - methods["floe"]["loss_mean"]
            )
            assert figures["virtual_seconds"] <= 15
            if name not in ("untrained", "local"):
                assert figures["rounds"] == 3
                assert figures["steps"] == 3 * 3 * 6
                assert figures["loss_mean"] < methods["untrained"]["loss_mean"]
        # A device that neither waits nor communicates makes more steps.
        assert methods["local"]["steps"] > methods["floe"]["steps"]
        assert methods["local"]["megabytes_up"] == 0 < methods["fedavg"]["megabytes_up"]
    assert len(journal.read_text("utf-8").splitlines()) == 1 + 2 * len(METHODS)
    figure = draw(values)
    (axes,) = figure.axes
    assert axes.get_xlabel().startswith("level")
    assert len(axes.containers) == len(METHODS)
    bars = [each for each in axes.containers if isinstance(each, ErrorbarContainer)]
    (floe,) = (each for each in bars if each.get_label() == "floe")
    losses = {level: methods["floe"]["loss_mean"] for level, methods in values["levels"].items()}
    assert np.asarray(floe.lines[0].get_ydata()).tolist() == [losses["0"], losses["1"]]
    figure.canvas.draw()


def test_a_benchmark_goes_on_where_it_was_cut_off(protocol: world.Protocol, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    journal = Journal(path, protocol.described())
    run_task(protocol, Task(0.0, 0, ("untrained",)), journal.add)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"level": 0.0, "seed": 0, "meth')
    resumed = Journal(path, protocol.described())
    assert [record["method"] for record in resumed.records] == ["untrained"]
    left = plan([1.0, 0.0], [0], ["floe", "local", "untrained"], done=resumed.records)
    assert left == [
        Task(1.0, 0, ("local",)),
        Task(1.0, 0, ("floe", "untrained")),
        Task(0.0, 0, ("local",)),
        Task(0.0, 0, ("floe",)),
    ]
    with pytest.raises(ConfigError, match="another budget"):
        Journal(path, replace(protocol, budget=16.0).described())


def test_a_step_can_be_timed_on_this_machine(protocol: world.Protocol) -> None:
    base, slope = world.measured_step_seconds(protocol, seed=0)
    assert 0 <= slope < base + 8 * slope < 60


def test_mean_and_spread_are_over_seeds() -> None:
    def record(method: str, seed: int, loss: float) -> Record:
        zeros = dict.fromkeys(
            ("rounds", "steps", "virtual_seconds", "megabytes_up", "megabytes_down"), 0
        )
        extra = {"clusters": [[0], [1]]} if method == "floe" else {}
        return {"level": 0.0, "seed": seed, "method": method, "loss": loss, **zeros, **extra}

    found = summarise(
        [
            *(record("local", seed, loss) for seed, loss in ((0, 1.5), (1, 2.5), (2, 3.5))),
            *(record("floe", seed, loss) for seed, loss in ((0, 1.0), (1, 2.0), (2, 3.0))),
        ]
    )["0"]
    assert (found["local"]["loss_mean"], found["local"]["loss_std"]) == (2.5, 1.0)
    assert (found["local"]["gap_mean"], found["local"]["gap_std"]) == (0.5, 0.0)
    first, second = rows({"0": found})
    assert first[:4] == ["0", "floe (2 clusters)", "2.000 ± 1.000", ""]
    assert second[:4] == ["0", "local", "2.500 ± 1.000", "+0.500 ± 0.000"]


def test_conclusions_follow_from_the_differences() -> None:
    def figures(losses: list[float], gaps: list[float]) -> dict[str, object]:
        return {
            "loss_mean": float(np.mean(losses)),
            "losses": dict(enumerate(losses)),
            "gap_mean": float(np.mean(gaps)),
            "gap_std": float(np.std(gaps, ddof=1)),
            "clusters": {"0": 2, "1": 2},
        }

    methods = {
        "floe": figures([2.0, 2.2], [0.0, 0.0]),
        "fedavg": figures([2.3, 2.5], [0.3, 0.3]),
        "local": figures([1.7, 1.9], [-0.3, -0.3]),
        "hetlora": figures([1.9, 2.4], [-0.1, 0.2]),
        "untrained": figures([3.0, 3.2], [1.0, 1.0]),
    }
    (said,) = conclusions({"0": methods})
    assert "makes 2 clusters and is number 2 of 5" in said
    assert "lower than that of fedavg, untrained, higher than that of local" in said
    assert "within one standard deviation of hetlora" in said
    assert "1.000 nats below the untrained model" in said
    assert conclusions({"0": {"local": methods["local"]}}) == []
