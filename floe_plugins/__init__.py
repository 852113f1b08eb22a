"""Hooks, plugin manager, privacy gate, routers and model sources of Floe.

This package imports neither torch, transformers, vllm nor flwr, so that a command, a middleware
or a plugin can use it anywhere.
"""

import pluggy

__all__ = ["PROJECT", "hookimpl", "hookspec"]

PROJECT = "floe_llm"
"""The pluggy project name and the entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
