"""Why the tokenizer of a folder or hub id could not be loaded, in words that say what to do."""

from __future__ import annotations

import os
from pathlib import Path

from floe_plugins.errors import first_line
from floe_plugins.models.resolver import TOKENIZER_FILES

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def why_not_loaded(name: str, error: BaseException) -> str:
    """Say why transformers could not load a tokenizer; no full stop at the end.

    Parameters
    ----------
    name : str
        The folder or hub id that it was asked for.
    error : BaseException
        What it raised. Of a folder that is not there it says that the hub cannot be reached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not any((folder / file).is_file() for file in TOKENIZER_FILES):
            wanted = ", ".join(TOKENIZER_FILES)
            return f"the folder {folder.absolute()} has no tokenizer in it (none of {wanted})"
        return first_line(error).rstrip(".")
    said = first_line(error).rstrip(".")
    if any(os.environ.get(each, "").lower() in ("1", "true", "yes", "on") for each in _OFFLINE):
        hub = "the hub's cache of this machine has no model of that name, and the hub is switched "
        hub += "off (HF_HUB_OFFLINE)"
    elif "couldn't connect" in said.lower():
        hub = "the hub, where it could be a model's id, cannot be reached"
    else:
        hub = f"the hub says: {said}"
    return f"there is no folder {folder.absolute()}, and {hub}"
