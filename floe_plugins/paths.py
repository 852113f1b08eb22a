"""Where Floe keeps files that can be made again."""

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
