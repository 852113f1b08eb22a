from typing import Any

import pytest
from vllm.sampling_params import SamplingParams

from vllm_logits_processor.runners.sampling import is_greedy, unwanted_of


@pytest.mark.parametrize(
    ("temperature", "seed", "greedy"),
    [(0.0, None, True), (0.0, 7, True), (0.3, None, False), (0.3, 7, False), (1.0, None, False)],
)
def test_a_temperature_of_zero_is_greedy(
    temperature: float, seed: int | None, greedy: bool
) -> None:
    assert is_greedy(SamplingParams(temperature=temperature, seed=seed)) is greedy


@pytest.mark.parametrize(
    ("narrow", "greedy"),
    [
        ({"top_k": 1}, True),
        ({"top_k": 2}, False),
        ({"min_p": 1.0}, True),
        ({"min_p": 0.9}, False),
        ({"top_p": 1e-6}, True),
        ({"top_p": 0.1}, False),
        ({"temperature": 1e-4}, True),
    ],
)
def test_so_is_a_draw_from_the_likeliest_token_alone(narrow: dict[str, Any], greedy: bool) -> None:
    params: dict[str, Any] = {"temperature": 0.7, "seed": 1, **narrow}
    assert is_greedy(SamplingParams(**params)) is greedy


@pytest.mark.parametrize(
    ("bias", "unwanted"),
    [(None, ()), ({}, ()), ({5: -19.0, 3: 7.5}, ()), ({9: -100.0, 5: -20.0, 3: 100.0}, (5, 9))],
)
def test_a_bias_that_is_low_enough_forbids(
    bias: dict[int, float] | None, unwanted: tuple[int, ...]
) -> None:
    assert unwanted_of(SamplingParams(logit_bias=bias)) == unwanted
