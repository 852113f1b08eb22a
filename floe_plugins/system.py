"""Where Floe keeps files of its own."""

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
