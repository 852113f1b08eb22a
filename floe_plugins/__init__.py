"""Hooks, plugin manager, privacy gate, routers and model sources of Floe.

Importing this package is light on purpose: it pulls in neither torch, transformers, vllm nor
flwr, so that a command, a middleware or a plugin can use it anywhere.
"""

import pluggy

__all__ = ["PROJECT", "hookimpl", "hookspec"]

PROJECT = "floe_llm"
"""The pluggy project name and the entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
