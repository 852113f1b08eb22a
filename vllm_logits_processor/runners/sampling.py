"""How vLLM chooses a request's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams


def is_greedy(params: SamplingParams) -> bool:
    """Return whether the likeliest token is taken, and none is drawn."""
    return params.sampling_type.name == "GREEDY"
