"""Where Floe keeps files of its own, and where its log lines go."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "FLOE_CACHE_DIR"


def cache_dir() -> Path:
    """Return Floe's cache folder, which need not exist yet.

    Returns
    -------
    Path
        ``$FLOE_CACHE_DIR`` if set, else the user's cache folder by the conventions of the system
        (``$XDG_CACHE_HOME/floe-llm`` or ``~/.cache/floe-llm`` on Linux).
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("floe-llm")


def state_dir() -> Path:
    """Return the folder of what cannot be made again; it need not exist yet.

    Returns
    -------
    Path
        ``$FLOE_CACHE_DIR`` if set, else the user's state folder by the conventions of the system
        (``$XDG_STATE_HOME/floe-llm`` or ``~/.local/state/floe-llm`` on Linux), which nobody
        empties to gain room.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_state_path("floe-llm")


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
