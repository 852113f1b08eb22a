"""Floe's vLLM half: fuses vLLM's model with one of another vocabulary at every decoding step.

The data path of one step, in order: :mod:`stream` (the text so far, as bytes), :mod:`privacy` (may
it leave?), :mod:`expert` (call the other model), :mod:`alignment` (map its reply to the host's
vocabulary), :mod:`fusion` (weigh and add). :mod:`engine` joins them and does not depend on vLLM;
:mod:`processor` is the class that vLLM loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_logits_processor.processor import FloeLogitsProcessor

__all__ = ["FloeLogitsProcessor"]


def __getattr__(name: str) -> Any:
    """Import the processor class on first use, so that the rest works without vLLM."""
    if name == "FloeLogitsProcessor":
        from vllm_logits_processor.processor import FloeLogitsProcessor

        return FloeLogitsProcessor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
