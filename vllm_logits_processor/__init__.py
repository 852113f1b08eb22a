"""Floe's vLLM half: fuse, at every decoding step, vLLM's model with one of another vocabulary.

The data path of one step, in order: :mod:`stream` (the text so far, on bytes), :mod:`privacy` (may
it leave?), :mod:`expert` (ask the other model), :mod:`alignment` (its answer over the host's
vocabulary), :mod:`fusion` (weigh and add). :mod:`engine` joins them and knows nothing of vLLM;
:mod:`processor` is the class that vLLM loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_logits_processor.processor import FloeLogitsProcessor

__all__ = ["FloeLogitsProcessor"]


def __getattr__(name: str) -> Any:
    """Import the processor class on first use: the maths must not need vLLM."""
    if name == "FloeLogitsProcessor":
        from vllm_logits_processor.processor import FloeLogitsProcessor

        return FloeLogitsProcessor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
