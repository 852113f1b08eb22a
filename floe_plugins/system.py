"""The folders of Floe's own files, and its log lines inside vLLM."""

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
    """Return the folder of files that cannot be regenerated; it need not exist yet.

    Returns
    -------
    Path
        ``$FLOE_CACHE_DIR`` if set, else the user's state folder by the conventions of the system
        (``$XDG_STATE_HOME/floe-llm`` or ``~/.local/state/floe-llm`` on Linux), which is not cleared
        to free space.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_state_path("floe-llm")


def log_with_vllm(*packages: str) -> None:
    """Send the log lines of Floe's packages to vLLM's handlers: vLLM sets up only its own logger.

    Nothing changes without vLLM, or if Floe's loggers are set up already.

    Parameters
    ----------
    *packages : str
        Names of packages, such as ``floe_plugins``.
    """
    theirs = logging.getLogger("vllm")
    for package in packages:
        ours = logging.getLogger(package)
        if theirs.handlers and not ours.handlers:
            ours.handlers, ours.propagate = list(theirs.handlers), theirs.propagate
            ours.setLevel(theirs.level)
