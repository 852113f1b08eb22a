"""Detects requests that vLLM makes up at start, to compile kernels and to measure memory.

They arrive through the same interface as user requests, up to ``max_num_seqs`` of them, and are
never reported as gone. They must not reach the expert or the metrics.

Two signs identify them, neither of which a user's request can have:

- They are added while a worker warms up or profiles memory: the call comes from one of vLLM's
  methods for that, in which no scheduled request is added. This holds for all of them, including
  those with ordinary parameters (``temperature=0, max_tokens=2``).
- They have the exact parameters of ``SamplingParams.for_sampler_warmup()``, with token ids of bad
  words but not the words; an admitted request has both or neither.
"""

from __future__ import annotations

import sys
from functools import cache
from types import FrameType
from typing import TYPE_CHECKING

from vllm.sampling_params import SamplingParams as _Params

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams

#: Methods of vLLM's workers that run before serving, and the module that creates such requests.
_METHODS = frozenset({"determine_available_memory", "compile_or_warm_up_model", "profile_run"})
_MODULE = "vllm.v1.worker.gpu.warmup"


def made_up(params: SamplingParams) -> bool:
    """Return whether vLLM itself made up the request that is being added."""
    return params == _sampler_warm_up() or _while_warming_up(sys._getframe(1))


@cache
def _sampler_warm_up() -> SamplingParams | None:
    make = getattr(_Params, "for_sampler_warmup", None)
    return make() if make is not None else None


def _while_warming_up(frame: FrameType | None) -> bool:
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module == _MODULE or (
            frame.f_code.co_name in _METHODS and module.startswith("vllm.v1.worker.")
        ):
            return True
        frame = frame.f_back
    return False
