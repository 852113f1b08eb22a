"""Entities by a GLiNER model in a folder, where `gliner` is installed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError
from floe_plugins.gate.detector import Span

FOLDER_VARIABLE = "FLOE_GLINER_MODEL"
"""Environment variable: the folder of the model."""

# What is asked for, in GLiNER's way of naming it -> label.
_ASKED = {
    "person": "PERSON",
    "location": "LOCATION",
    "address": "ADDRESS",
    "organization": "ORGANIZATION",
    "medical condition": "HEALTH",
    "medication": "HEALTH",
    "religion": "RELIGION",
    "political party": "POLITICS",
    "date of birth": "DATE_TIME",
}
# The model reads a few hundred words at once; pieces overlap by the longest entity.
_CHARS, _OVERLAP = 1000, 100


class GlinerDetector:
    """Asks a GLiNER model that lies in a folder; nothing is downloaded.

    Parameters
    ----------
    folder : Path, optional
        The folder; that of ``FLOE_GLINER_MODEL`` by default. Loaded at the gate's start.
    threshold : float, optional
        What the model holds less likely than this is let be.
    """

    name = "gliner"
    labels: Sequence[str] = tuple(dict.fromkeys(_ASKED.values()))
    default = False

    def __init__(self, folder: Path | None = None, *, threshold: float = 0.5) -> None:
        self._folder = folder
        self._threshold = threshold
        self._model: Any = None

    def load(self) -> None:
        """Load the model unless that has been done.

        Raises
        ------
        ConfigError
            If no folder is named or it holds no model.
        """
        if self._model is not None:
            return
        folder = self._folder or Path(os.environ.get(FOLDER_VARIABLE, ""))
        if not (folder / "gliner_config.json").is_file():
            raise ConfigError(
                f"The folder of the GLiNER model is {str(folder)!r}; accepted is one with a "
                f"gliner_config.json, given as argument or in {FOLDER_VARIABLE}."
            )
        gliner = importlib.import_module("gliner")
        self._model = gliner.GLiNER.from_pretrained(str(folder), local_files_only=True)

    def detect(self, text: str) -> Sequence[Span]:
        """Return the entities of a text."""
        self.load()
        spans = set()
        for start in range(0, max(1, len(text) - _OVERLAP), _CHARS - _OVERLAP):
            piece = text[start : start + _CHARS]
            found = self._model.predict_entities(piece, list(_ASKED), threshold=self._threshold)
            for entity in found:
                if entity["start"] < entity["end"]:
                    label = _ASKED[entity["label"]]
                    spans.add(Span(start + entity["start"], start + entity["end"], label))
        return sorted(spans)
