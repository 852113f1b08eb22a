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
from flower_strategy.device.base_model import load_base_model
from flower_strategy.device.hardware import DEVICE_CLASSES
from integration_tests.benchmarks.cli import Namespace
from integration_tests.benchmarks.federated_quality import world
from integration_tests.benchmarks.federated_quality.__main__ import main
from integration_tests.benchmarks.federated_quality.ablation import PARTS, ablation
from integration_tests.benchmarks.federated_quality.figure import draw
from integration_tests.benchmarks.federated_quality.floe import affordable_ranks
from integration_tests.benchmarks.federated_quality.measure import (
    Case,
    Journal,
    Record,
    Task,
    devices_better,
    plan,
    run_task,
    summarise,
)
from integration_tests.benchmarks.federated_quality.methods import (
    DEFAULT_METHODS,
    TUNED,
    FedAvg,
    Federation,
    FlexLora,
    Flora,
    HetLora,
    loads_of,
    method_of,
    run_rounds,
)
from integration_tests.benchmarks.federated_quality.result import conclusions, result, rows
from integration_tests.benchmarks.federated_quality.ways import Way, planned, split_name

_OF_ONE_MODEL = ("fedavg", "hetlora", "flexlora")

# --------------------------------------------------------------------- clock


def test_a_round_takes_what_its_slowest_device_needs_and_none_begins_too_late() -> None:
    protocol = world.Protocol(step_seconds=(1.0, 0.5), downlink=4.0)
    phone, laptop = DEVICE_CLASSES["phone"], DEVICE_CLASSES["laptop"]
    load = world.Load(rank=2, steps=2, bytes_down=1_000_000, bytes_up=500_000)
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
    # The laptop needs 32 times less for messages and 3 for steps: 1/32 + 4 + 1/16 of 15 seconds.
    assert clock.idle == pytest.approx(0.5 * (1 - (3 / 32 + 4) / 15))
    clock.download_last({0: load, 1: load})
    assert clock.seconds == pytest.approx(31.0)
    assert clock.bytes_down == 6_000_000


def test_a_round_leaves_time_for_the_download_of_its_result() -> None:
    protocol = world.Protocol(step_seconds=(1.0, 0.5), downlink=4.0)
    load = world.Load(rank=2, steps=2, bytes_down=1_000_000, bytes_up=500_000)
    clock = world.Clock({0: DEVICE_CLASSES["phone"]}, protocol, budget=16.0)
    with pytest.raises(world.BudgetSpentError):
        clock.begin_round({0: load}, reserve=1.1)
    clock.begin_round({0: load}, reserve=1.0)
    # Nothing travels down in the first round: the initial adapter follows from the seed.
    assert load.without_download().bytes_down == 0


# ------------------------------------------------------------------- methods


def run(bench: world.Workbench, name: str) -> world.Outcome:
    method = method_of(name)
    assert method is not None
    return method(bench)


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
    assert (ranks[0], ranks[2]) == (4, 8)
    fedavg = FedAvg(bench.world, ranks)
    assert {fedavg.adapter_for(node).rank for node in ranks} == {4}
    for method in (HetLora, FlexLora, Flora):
        federation: Federation = method(bench.world, ranks)
        assert {node: federation.adapter_for(node).rank for node in ranks} == ranks


def test_floras_devices_download_the_whole_stack(bench: world.Workbench) -> None:
    loads = loads_of(Flora(bench.world, {0: 2, 1: 4}), Way())
    assert loads[0].bytes_down == loads[1].bytes_down == loads[0].bytes_up + loads[1].bytes_up
    assert loads[1].bytes_up == 2 * loads[0].bytes_up


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("fedavg", Way()),
        ("fedavg:int8", Way(int8=True)),
        ("fedavg:filled:int8", Way(int8=True, filled=True)),
    ],
)
def test_a_name_says_how_a_method_travels(name: str, way: Way) -> None:
    assert split_name(name) == ("fedavg", way)
    assert method_of(name) is not None


@pytest.mark.parametrize(
    "name", ["fedprox", "floe:int8", "local:filled", "fedavg:", "fedavg:int8:int8", "fedavg:int4"]
)
def test_other_names_are_none_of_a_method(name: str) -> None:
    assert method_of(name) is None


def test_eight_bits_are_a_quarter_of_the_bytes_and_both_ends_see_the_same(
    bench: world.Workbench,
) -> None:
    way, model = Way(int8=True), FlexLora(bench.world, {0: 2, 1: 4})
    wide, narrow = loads_of(model, Way()), loads_of(model, way)
    for node, load in narrow.items():
        assert 0.25 * wide[node].bytes_up < load.bytes_up < 0.35 * wide[node].bytes_up
    trained = bench.train(0, model.adapter_for(0), server_round=1).adapter
    arrived = way.carried(trained)
    model.combine([arrived, arrived], [1, 1])
    for layer, factors in arrived.layers.items():
        assert not np.array_equal(factors.b, trained.layers[layer].b)
        exact = trained.delta(layer)
        assert np.linalg.norm(arrived.delta(layer) - exact) < 0.02 * np.linalg.norm(exact)
        np.testing.assert_allclose(
            model.received(1, Way()).delta(layer), arrived.delta(layer), atol=1e-5
        )


def test_steps_fill_rounds_of_equal_length(bench: world.Workbench) -> None:
    protocol, way = bench.world.protocol, Way(int8=True, filled=True)
    ranks = affordable_ranks(bench)
    loads = loads_of(HetLora(bench.world, ranks), way)
    found = planned(bench.world, loads, way=way)
    assert found.rounds == protocol.merges == 3
    length = (protocol.budget - found.last_seconds) / 3
    for node, load in loads.items():
        device = bench.world.nodes[node].device
        full = load.with_steps(found.steps[node])
        assert world.load_seconds(device, full, protocol) <= length * (1 + 1e-9)
        more = load.with_steps(found.steps[node] + 1)
        assert world.load_seconds(device, more, protocol) > length
    assert found.steps[2] > found.steps[0]
    slow = replace(protocol, budget=3.5)
    bench.world.protocol = slow
    try:
        # A phone's step takes 1.6 seconds: two rounds, and with 1 second none.
        assert planned(bench.world, loads, way=way).rounds == 2
        bench.world.protocol = replace(slow, budget=1.0)
        assert planned(bench.world, loads, way=way).rounds == 0
        outcome = run_rounds(bench, HetLora(bench.world, ranks), way)
        assert (outcome.steps, outcome.clock.seconds) == (0, 0.0)
    finally:
        bench.world.protocol = protocol


def test_filled_rounds_use_the_whole_budget_and_wait_less(bench: world.Workbench) -> None:
    plain, filled = run(bench, "hetlora"), run(bench, "hetlora:int8:filled")
    assert filled.steps > plain.steps
    assert filled.clock.idle < plain.clock.idle
    assert plain.clock.bytes_up > 3 * filled.clock.bytes_up
    assert filled.clock.seconds <= bench.world.protocol.budget * (1 + 1e-9)
    assert filled.clock.bytes_down == filled.clock.bytes_up


def test_a_tuned_rate_is_one_of_three_and_no_worse_than_the_given_one(
    bench: world.Workbench,
) -> None:
    def loss(outcome: world.Outcome) -> float:
        return float(np.mean([bench.held_out(node, one) for node, one in outcome.served.items()]))

    tuned = run(bench, "local_tuned")
    before = bench.trainings
    assert loss(tuned) <= loss(run(bench, "local"))
    assert bench.trainings == before, "training alone at the given rate is remembered"
    rates = [factor * bench.world.protocol.learning_rate for factor in TUNED]
    assert tuned.details["learning_rate"] in rates


def test_devices_of_few_examples_have_so_many(protocol: world.Protocol) -> None:
    few = world.World(replace(protocol, examples=5), level=1.0, seed=0)
    assert {len(node.examples) for node in few.nodes.values()} == {5}
    # Floe keeps one to validate with.
    assert {profile.num_examples for profile in few.profiles.values()} == {4}


def test_what_is_remembered_is_what_would_be_trained(bench: world.Workbench) -> None:
    again = world.Workbench(bench.world, remember=False)
    methods = ("floe", "hetlora", "flexlora")
    ways = {}
    for way in (world.Workbench(bench.world), again):
        ways[way] = {
            name: [
                way.held_out(node, adapter)
                for node, adapter in sorted(run(way, name).served.items())
            ]
            for name in methods
        }
    remembered, anew = ways
    for name in methods:
        # Two trainings of one adapter may differ in the last bit, by where its arrays lie. Floe's
        # rounding to eight bits makes a step of the scale of it.
        close = 2e-3 if name == "floe" else 1e-5
        assert ways[remembered][name] == pytest.approx(ways[anew][name], rel=close), name
    # HetLoRA and FlexLoRA begin alike; Floe's devices train as in the product.
    assert remembered.trainings == anew.trainings - 6


# ------------------------------------------------------------ the whole thing


def test_every_method_uses_the_same_budget(
    tiny_model: str, tmp_path: Path, values_of: Callable[..., Any]
) -> None:
    journal = tmp_path / "results.jsonl"
    # Of those that differ in the mean alone, one: the others have tests of their own.
    left_out = {"hetlora", "hetlora:int8:filled", "flora:int8:filled"}
    names = tuple(name for name in DEFAULT_METHODS if name not in left_out)
    arguments = [
        *("--model", tiny_model, "--data", "embedded", "--ranks", "2,4,8", "--budget", "15"),
        *("--local-steps", "3", "--learning-rate", "0.02", "--max-length", "48"),
        *("--eval-examples", "4", "--step-seconds", "0.5,0.01"),
        *("--seeds", "0", "--levels", "1,0", "--jobs", "1", "--few-examples", "6"),
        *("--curve-budgets", "6", "--curve-methods", "floe,local", "--few-methods", "floe"),
        *("--resume", str(journal), "--methods", ",".join(names)),
    ]
    values = values_of(main, *arguments)
    assert list(values["levels"]) == ["1", "0"]
    for level, methods in values["levels"].items():
        assert sorted(methods) == sorted(names)
        assert methods["untrained"]["steps"] == 0
        for name, figures in methods.items():
            assert 0 < figures["loss_mean"] < 10
            assert figures["loss_std"] == 0.0
            assert figures["gap_mean"] == pytest.approx(
                figures["loss_mean"] - methods["floe"]["loss_mean"]
            )
            assert figures["virtual_seconds"] <= 15 * (1 + 1e-9)
            if name not in ("untrained", "local", "local_tuned"):
                assert figures["rounds"] == 3
                assert figures["loss_mean"] < methods["untrained"]["loss_mean"]
                filled = name == "floe" or name.endswith(":filled")
                assert (figures["steps"] > 3 * 3 * 6) == filled
            if name != "local":
                better, of = values["devices_better"][level][name]
                assert of == 6
                assert 0 <= better <= 6
        # A device that neither waits nor communicates makes more steps.
        assert methods["local"]["steps"] > methods["floe"]["steps"]
        assert methods["local"]["megabytes_up"] == 0 < methods["fedavg"]["megabytes_up"]
    assert sorted(values["budget_curve"]["6"]["1"]) == ["floe", "local"]
    assert values["budget_curve"]["6"]["1"]["local"]["steps"] < methods["local"]["steps"]
    assert values["few_examples"]["examples"] == 6
    assert values["work_seconds"] > 0
    assert len(values["records"]) == 2 * len(names) + 2 + 2
    assert {len(record["device_losses"]) for record in values["records"]} == {6}
    assert sorted(values["few_examples"]["levels"]) == ["0", "1"]
    for methods in values["few_examples"]["levels"].values():
        assert sum(methods["floe"]["keeps"].values()) == 6
    shared = {"floe", *(name for name in names if name.split(":")[0] in _OF_ONE_MODEL)}
    for methods in values["energy_above"].values():
        assert methods.keys() == shared
        assert {len(shares) for shares in methods.values()} == {3}
        assert all(0 < share < 1 for shares in methods.values() for share in shares)
    for level, parts in values["ablation"].items():
        assert parts.keys() == PARTS.keys()
        losses = {name: one["loss_mean"] for name, one in values["levels"][level].items()}
        for part, (without, having) in PARTS.items():
            assert parts[part]["mean"] == pytest.approx(losses[having] - losses[without])
    assert len(journal.read_text("utf-8").splitlines()) == 1 + 2 * len(names) + 2 + 2
    shown = result(values, Namespace())
    assert {len(row) for row in shown.rows} == {len(shown.header)}
    assert any("virtual seconds: with 6 floe" in said for said in shown.remarks)
    assert any("energy of the server's mean above rank 2" in said for said in shown.remarks)
    assert any("devices of 6 examples: floe" in said for said in shown.remarks)
    assert any("(flexlora to flexlora:int8) " in said for said in shown.remarks)
    figure = draw(values)
    over_level, over_time = figure.axes
    assert over_level.get_xlabel().startswith("level")
    assert len(over_level.containers) == len(names)
    bars = [each for each in over_level.containers if isinstance(each, ErrorbarContainer)]
    (floe,) = (each for each in bars if each.get_label() == "floe")
    losses = {level: methods["floe"]["loss_mean"] for level, methods in values["levels"].items()}
    assert np.asarray(floe.lines[0].get_ydata()).tolist() == [losses["0"], losses["1"]]
    (line,) = (each for each in over_time.lines if each.get_label() == "floe")
    assert np.asarray(line.get_xdata()).tolist() == [6.0, 15.0]
    assert np.asarray(line.get_ydata())[1] == losses["1"]
    figure.canvas.draw()


def test_a_benchmark_goes_on_where_it_was_cut_off(protocol: world.Protocol, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    journal = Journal(path, protocol.described())
    case, other = (Case(level, 0, protocol.budget, 0) for level in (0.0, 1.0))
    run_task(protocol, Task(case, ("untrained",)), journal.add)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"level": 0.0, "seed": 0, "meth')
    resumed = Journal(path, protocol.described())
    assert [record["method"] for record in resumed.records] == ["untrained"]
    names = ["floe", "local", "untrained"]
    left = plan([(other, names), (case, names), (case, ["floe"])], done=resumed.records)
    assert left == [
        Task(other, ("local",)),
        Task(other, ("floe", "untrained")),
        Task(case, ("local",)),
        Task(case, ("floe",)),
    ]
    with pytest.raises(ConfigError, match="another budget"):
        Journal(path, replace(protocol, budget=16.0).described())


def test_a_step_can_be_timed_on_this_machine(protocol: world.Protocol) -> None:
    base, slope = world.measured_step_seconds(protocol, seed=0)
    assert 0 <= slope < base + 8 * slope < 60


def test_an_ablation_is_over_equal_seeds() -> None:
    levels = {
        "1": {
            "floe": {"losses": {"0": 2.0, "1": 3.0}},
            "local": {"losses": {"0": 2.5, "1": 3.1, "2": 9.0}},
        }
    }
    assert ablation(levels) == {
        "1": {"sharing": {"mean": pytest.approx(-0.3), "std": pytest.approx(0.08**0.5)}}
    }


def test_mean_and_spread_are_over_seeds() -> None:
    def record(method: str, seed: int, loss: float) -> Record:
        zeros = dict.fromkeys(
            ("rounds", "steps", "idle", "virtual_seconds", "megabytes_up", "megabytes_down"), 0
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
    first, second = rows({"0": found}, {"0": {"floe": [5, 6]}})
    assert first[:5] == ["0", "floe (2 clusters)", "2.000 ± 1.000", "", "5 of 6"]
    assert second[:5] == ["0", "local", "2.500 ± 1.000", "+0.500 ± 0.000", ""]


def test_devices_are_compared_with_themselves_alone() -> None:
    def record(method: str, seed: int, losses: list[float], budget: float = 86.0) -> Record:
        case = {"level": 0.5, "seed": seed, "budget": budget, "examples": 0}
        return {**case, "method": method, "device_losses": losses}

    found = devices_better(
        [
            record("floe", 0, [1.0, 2.0, 3.0]),
            record("local", 0, [2.0, 2.0, 4.0]),
            record("floe", 1, [1.0, 2.0, 3.0]),
            record("local", 1, [0.0, 0.0, 4.0]),
            record("fedavg", 1, [9.0, 9.0, 9.0]),
            record("floe", 1, [0.0, 0.0, 0.0], budget=18.0),
        ]
    )
    assert found == {"0.5": {"floe": [3, 6], "fedavg": [0, 3]}}


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
    (said,) = conclusions({"0": methods}, {"0": {"floe": [11, 12]}})
    assert "serves 11 of 12 devices better than training alone" in said
    assert "makes 2 clusters and is number 2 of 5" in said
    assert "lower than that of fedavg, untrained, higher than that of local" in said
    assert "within one standard deviation of hetlora" in said
    assert "1.000 nats below the untrained model" in said
    assert conclusions({"0": {"local": methods["local"]}}, {}) == []
