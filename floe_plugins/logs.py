"""Where Floe's log lines go in a process of vLLM's."""

from __future__ import annotations

import logging


def log_with_vllm(*packages: str) -> None:
    """Send the lines of Floe's packages where vLLM's go; vLLM sets up no logger but its own.

    Nothing changes where there is no vLLM, or somebody has set up Floe's loggers.

    Parameters
    ----------
    *packages : str
        Such as ``floe_plugins``.
    """
    theirs = logging.getLogger("vllm")
    for package in packages:
        ours = logging.getLogger(package)
        if theirs.handlers and not ours.handlers:
            ours.handlers, ours.propagate = list(theirs.handlers), theirs.propagate
            ours.setLevel(theirs.level)
