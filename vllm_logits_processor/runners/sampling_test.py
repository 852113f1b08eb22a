import pytest
from vllm.sampling_params import SamplingParams

from vllm_logits_processor.runners.sampling import is_greedy


@pytest.mark.parametrize(
    ("temperature", "seed", "greedy"),
    [(0.0, None, True), (0.0, 7, True), (0.3, None, False), (0.3, 7, False), (1.0, None, False)],
)
def test_only_a_temperature_of_zero_is_greedy(
    temperature: float, seed: int | None, greedy: bool
) -> None:
    assert is_greedy(SamplingParams(temperature=temperature, seed=seed)) is greedy
