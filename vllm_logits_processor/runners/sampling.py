"""How vLLM chooses a request's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams


#: Below this temperature a token that leads by a tenth of a nat is drawn in all but 1 of 22,000
#: steps; and below this `top_p` the likeliest token of any vocabulary is all that is left.
_NEXT_TO_NO_TEMPERATURE, _NEXT_TO_NO_TOP_P = 0.01, 1e-6

#: A bias that leaves a token less than 1 of 100 million parts of its odds is meant to forbid it.
_FORBIDS = -20.0


def is_greedy(params: SamplingParams) -> bool:
    """Return whether the likeliest token is taken, even if vLLM draws it from a set of one."""
    return (
        params.sampling_type.name == "GREEDY"
        or params.temperature <= _NEXT_TO_NO_TEMPERATURE
        or params.top_k == 1
        or params.min_p >= 1.0
        or params.top_p <= _NEXT_TO_NO_TOP_P
    )


def unwanted_of(params: SamplingParams) -> tuple[int, ...]:
    """Return the tokens that the request all but forbids by its ``logit_bias``.

    Both runners add the bias before fusion, where it is the host's opinion alone.
    """
    biases = params.logit_bias or {}
    return tuple(sorted(token for token, bias in biases.items() if bias <= _FORBIDS))
