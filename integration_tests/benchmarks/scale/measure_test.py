import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from integration_tests.benchmarks.scale.__main__ import main
from integration_tests.benchmarks.scale.figure import draw
from integration_tests.benchmarks.scale.fleet import TASKS, FleetGrid, trained_adapters
from integration_tests.benchmarks.scale.measure import count_blocks, first_blocks, reply_body
from integration_tests.benchmarks.scale.result import round_seconds
from vllm_logits_processor.expert.dialects.vllm import read_continuations

#: Stages of a round, in the order in which they happen.
STAGES = (
    "profiles",
    "clustering",
    "sending",
    "replies",
    "means",
    "evaluation",
    "next ranks",
    "checkpoint",
    "export",
)

SHAPES = {
    "model.layers.0.q_proj": (12, 9),
    "model.layers.0.k_proj": (6, 9),
    "model.layers.1.q_proj": (12, 9),
}


def test_both_halves_are_measured_and_drawn(tiny_model: str, values_of: Callable[..., Any]) -> None:
    options = ["--model", tiny_model, "--devices", "200", "400", "--terms", "64"]
    options += ["--streams", "1", "20", "--k", "5", "20", "--text", "30", "--calls", "2"]
    values = values_of(main, *options, "--repeats", "2")
    assert (values["blocks"], values["all_blocks"]) == (1, 2)
    for run, devices in zip(values["runs"], (200, 400), strict=True):
        assert run["replies"] == run["devices"] == devices == sum(run["ranks"].values())
        assert run["clusters"] == TASKS
        assert set(run["seconds"]) == set(STAGES)
        assert min(run["seconds"].values()) > 0
        assert run["tenths"][-1]["replies"] == devices
        # Half of the model's blocks.
        assert run["bytes_whole_model"] == 2 * run["bytes_up"]
        assert run["history_bytes_per_round"] > 100 * devices
    small, large = values["runs"]
    assert large["bytes_up"] == pytest.approx(2 * small["bytes_up"], rel=0.05)
    assert [reply["count"] for reply in values["whole"]["replies"]] == [16, 8, 4, 2]
    few, many = values["calls"][0], values["calls"][1]
    assert (few["streams"], many["streams"]) == (1, 20)
    # Twenty texts are twenty times as long; the body's own words are few.
    assert 10 * few["bytes_up"] < many["bytes_up"] < 20 * few["bytes_up"]
    assert values["calls"][3]["bytes_down"] > 2 * many["bytes_down"]
    figure = draw(values)
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "devices",
        "devices",
        "replies folded in",
        "streams in a call",
    ]
    assert len(figure.axes[3].lines) == 2
    figure.canvas.draw()


def test_a_round_is_reckoned_from_its_replies_and_what_does_not_depend_on_the_model() -> None:
    values = {
        "whole": {
            "result_s": 2.0,
            "replies": [{"rank": 4, "seconds": 0.1}, {"rank": 8, "seconds": 0.3}],
        }
    }
    run = {
        "clusters": 3,
        "ranks": {"4": 10, "8": 20},
        "seconds": {"sending": 1.0, "clustering": 50.0, "replies": 9.0, "checkpoint": 0.5},
    }
    assert round_seconds(values, run) == pytest.approx(1 + 6 + 6 + 1.5)


def test_the_first_blocks_are_those_of_the_model() -> None:
    assert list(first_blocks(SHAPES, 1)) == list(SHAPES)[:2]
    assert first_blocks(SHAPES, 9) == SHAPES
    assert count_blocks(SHAPES) == 2


def test_devices_have_tasks_and_all_classes_have_each() -> None:
    grid = FleetGrid(SHAPES, 100, 48)
    profiles = [grid._profile(index) for index in range(48)]
    classes = {(each.device, each.label) for each in profiles}
    assert len(classes) == 3 * TASKS
    vectors = np.stack([each.embedding for each in profiles])
    same = np.array([[one.label == other.label for one in profiles] for other in profiles])
    cosines = vectors @ vectors.T
    assert cosines[same].min() > 0.95
    assert 0.5 < cosines[~same].min() < cosines[~same].max() < 0.8
    first, second = trained_adapters(SHAPES, 4, count=2)
    assert first.rank == 4
    assert not np.array_equal(
        first.delta("model.layers.0.q_proj"), second.delta("model.layers.0.q_proj")
    )


def test_the_reply_is_what_vllm_answers_and_what_the_expert_reads() -> None:
    protocol = import_module("vllm.entrypoints.openai.completion.protocol")
    body = reply_body(np.array([[5, 3], [2, 9]]), np.log([[0.6, 0.3], [0.5, 0.1]]))
    values = json.loads(body)
    # A choice is what there are a thousand of; the rest of a body differs between releases.
    assert protocol.CompletionResponse(**values).model_dump()["choices"] == values["choices"]
    first, second = read_continuations(
        body, count=2, steps=1, vocabulary=10, end_ids=np.array([0], np.int32)
    )
    assert first.tokens.tolist() == [5]
    assert second.top.token_ids.tolist() == [[2, 9]]
    np.testing.assert_allclose(np.exp(second.top.logprobs), [[0.5, 0.1]], rtol=1e-6)
