from collections.abc import Callable
from typing import Any

import pytest

from flower_strategy.device.hardware import DEVICE_CLASSES, DOWNLINK
from flower_strategy.device.training_cost import TrainingCost
from integration_tests.benchmarks.rank_latency.__main__ import main
from integration_tests.benchmarks.rank_latency.figure import draw
from integration_tests.benchmarks.rank_latency.measure import Measured, compare


def cost(low: float, high: float) -> TrainingCost:
    return TrainingCost(
        step_ranks=(4, 16),
        step_seconds=(low, high),
        fixed_bytes=10,
        bytes_per_rank=10,
        upload_per_rank=1_000_000,
    )


def test_a_round_is_measured_and_predicted_for_every_class_and_rank(
    tiny_model: str, values_of: Callable[..., Any]
) -> None:
    options = ["--model", tiny_model, "--ranks", "8", "2", "4", "--repeats", "2"]
    values = values_of(main, *options, "--local-steps", "2", "--max-length", "32")
    assert sorted(values["classes"]) == sorted(DEVICE_CLASSES)
    sizes = [values["upload_bytes"][rank] for rank in ("2", "4", "8")]
    # The arrays' heads, of 128 bytes or so each, are all that does not grow with the rank.
    assert sizes[2] - sizes[1] == pytest.approx(2 * (sizes[1] - sizes[0]), rel=0.01)
    for name, device in values["classes"].items():
        assert [each["rank"] for each in device["rounds"]] == [2, 4, 8]
        assert [each["fitted"] for each in device["rounds"]] == [True, False, True]
        for each in device["rounds"]:
            expected = sizes[[2, 4, 8].index(each["rank"])] / DEVICE_CLASSES[name].bandwidth
            assert each["upload_s"] == pytest.approx(expected)
            assert each["download_s"] == pytest.approx(expected / DOWNLINK)
            parts = each["training_s"] + each["upload_s"] + each["download_s"]
            assert each["round_s"] == pytest.approx(parts)
            assert each["round_s"] * (1 + each["error_percent"] / 100) == pytest.approx(
                each["predicted_s"]
            )
    phone, laptop = (values["classes"][name]["rounds"][0] for name in ("phone", "laptop"))
    assert phone["training_s"] == pytest.approx(3 * laptop["training_s"])
    figure = draw(values)
    rounds, ranks = figure.axes
    assert rounds.get_xlabel() == "LoRA rank"
    # Per class the marks and the line.
    assert len(rounds.lines) == 2 * len(DEVICE_CLASSES)
    assert len(ranks.lines) == len(DEVICE_CLASSES)
    figure.canvas.draw()


def test_a_line_that_bends_is_told_by_the_ranks_between() -> None:
    measured = Measured(
        step_seconds={4: 1.0, 8: 2.0, 16: 2.5},
        upload_bytes={4: 4_000_000, 8: 8_000_000, 16: 16_000_000},
        costs=(cost(1.0, 2.5), cost(1.2, 2.5), cost(0.8, 2.5)),
        examples=10,
        local_steps=2,
    )
    found = compare(measured, {"laptop": DEVICE_CLASSES["laptop"]})
    low, middle, high = found["classes"]["laptop"]["rounds"]
    assert low["error_percent"] == pytest.approx(0)
    assert high["error_percent"] == pytest.approx(0)
    # The line is 1.5 at rank 8; 2 steps, 1 s of upload and an eighth of download.
    assert middle["error_percent"] == pytest.approx((4.125 / 5.125 - 1) * 100)
    assert found["single_probe_error_percent"]["least"] < -25
    assert found["single_probe_error_percent"]["most"] > -25


def test_deadlines_give_the_slow_a_smaller_rank_and_equal_ranks_wait_for_them() -> None:
    measured = Measured(
        step_seconds={4: 1.0, 16: 1.0},
        upload_bytes={4: 4_000_000, 16: 16_000_000},
        costs=(cost(1.0, 1.0),),
        examples=10,
        local_steps=2,
    )
    found = compare(measured, DEVICE_CLASSES)
    assert found["deadlines"][0]["ranks"] == {"phone": None, "jetson": None, "laptop": None}
    assert found["deadlines"][-1]["ranks"] == {"phone": 16, "jetson": 16, "laptop": 16}
    # The phone needs 6 + 16 + 2 s at rank 4, by which the jetson (5.5 + 12.8 + 1.6 s) is done at
    # rank 16.
    same = found["homogeneous"]
    assert same["ranks"] == {"phone": 4, "jetson": 16, "laptop": 16}
    assert (same["slowest"], same["round_s"]) == ("phone", pytest.approx(24.0))
    assert same["ratio"] == pytest.approx((6 + 72) / 24)
