"""What has been answered already, in a file: a run that was interrupted goes on from it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError


class Journal:
    """Values by kind and item, kept in a JSONL file as soon as they are known.

    Parameters
    ----------
    path : Path
        The file; its first line is `settings`.
    settings : Mapping
        What the values depend on, as JSON values.

    Raises
    ------
    ConfigError
        The file is of other settings.
    """

    def __init__(self, path: Path, *, settings: Mapping[str, Any]) -> None:
        self._path, self._lock = path, threading.Lock()
        self._known: dict[tuple[str, str], Any] = {}
        if not path.is_file():
            path.write_text(json.dumps(settings), "utf-8")
            return
        head, *lines = path.read_text("utf-8").splitlines()
        before = json.loads(head)
        if differing := sorted(key for key in settings if settings[key] != before.get(key)):
            raise ConfigError(
                f"{path} has answers of another run: {', '.join(differing)} differ; give another "
                "--output, or remove the file."
            )
        for line in lines:
            # An interruption may have cut off a line.
            with contextlib.suppress(json.JSONDecodeError):
                kind, key, value = json.loads(line)
                self._known[kind, key] = value

    def known(self, kind: str, key: str) -> Any | None:
        """Return a value, or None."""
        return self._known.get((kind, key))

    def keep(self, kind: str, key: str, value: Any) -> None:
        """Add a value, from any thread."""
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps([kind, key, value]))
            self._known[kind, key] = value
