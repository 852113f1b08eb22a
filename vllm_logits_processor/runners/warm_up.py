"""Requests that vLLM makes up when it starts, to compile kernels and to measure memory.

They come through the same interface as everybody's, up to ``max_num_seqs`` of them, and nobody says
that they are gone. No expert is to be asked about them, and nothing counted.

Two signs tell them, and neither is one that a user's request can have:

- they are added while a worker warms up or measures itself: the call comes from one of vLLM's
  methods for that, in which no scheduler's request is ever added. This holds for all of them, also
  for those that look like anybody's (``temperature=0, max_tokens=2``);
- they have the very parameters of ``SamplingParams.for_sampler_warmup()``. Token ids of bad words
  are among these, and not the words: a request that is admitted has both or neither.
"""

from __future__ import annotations

import sys
from functools import cache
from types import FrameType
from typing import TYPE_CHECKING

from vllm.sampling_params import SamplingParams as _Params

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams

#: What vLLM's workers do before they serve, and the module of the made-up requests.
_METHODS = frozenset({"determine_available_memory", "compile_or_warm_up_model", "profile_run"})
_MODULE = "vllm.v1.worker.gpu.warmup"


def made_up(params: SamplingParams) -> bool:
    """Tell whether a request that is being added is one of vLLM's own making."""
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
