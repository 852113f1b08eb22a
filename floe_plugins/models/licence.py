"""The licence of a model, as far as its folder tells."""

import re
from pathlib import Path

_FRONT_MATTER = re.compile(r"\A---\n.*?^license:\s*(?P<licence>\S[^\n]*)$.*?^---$", re.S | re.M)


def licence(path: str) -> str | None:
    """Return the licence of a checkpoint, or None where nothing tells it.

    Parameters
    ----------
    path : str
        What `resolve` returned. In a folder the model card's ``license`` field is read, else the
        title of the file LICENSE. A hub id tells nothing without the hub.
    """
    folder = Path(path)
    if not folder.is_dir():
        return None
    card = folder / "README.md"
    if card.is_file():
        found = _FRONT_MATTER.match(card.read_text("utf-8", errors="replace"))
        if found is not None:
            return found["licence"].strip().strip("\"'")
    for text in sorted(folder.glob("LICENSE*")):
        lines = [line.strip() for line in text.read_text("utf-8", errors="replace").splitlines()]
        title = [line for line in lines if line][:2]
        if title:
            return ", ".join(title)[:120]
    return None
