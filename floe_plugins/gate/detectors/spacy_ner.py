"""Named entities by a spaCy model, where `spacy` and a model are installed."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from floe_plugins.errors import ConfigError
from floe_plugins.gate.detector import Span

if TYPE_CHECKING:
    from pathlib import Path

# spaCy's names of entities, of OntoNotes and of the models for other languages.
_LABELS = {
    "PERSON": "PERSON",
    "PER": "PERSON",
    "GPE": "LOCATION",
    "LOC": "LOCATION",
    "FAC": "LOCATION",
    "ORG": "ORGANIZATION",
    "NORP": "NRP",
    "DATE": "DATE_TIME",
}
_KINDS = ("PERSON", "PER", "GPE", "LOC", "FAC", "ORG")


class SpacyDetector:
    """Asks the entity recognizer of a spaCy model.

    It reads any text at once, so a gate with it wants a longer `timeout_s`: tens of milliseconds
    per thousand characters.

    Parameters
    ----------
    model : str or Path, optional
        The name of an installed model, or its folder. Loaded at the gate's start.
    kinds : sequence of str, optional
        Which of spaCy's entities count.
    """

    name = "spacy"
    labels: Sequence[str] = tuple(dict.fromkeys((*_LABELS.values(), "OTHER")))
    default = False

    def __init__(
        self, model: str | Path = "en_core_web_sm", *, kinds: Sequence[str] = _KINDS
    ) -> None:
        self._name = model
        self._kinds = frozenset(kinds)
        self._model: Any = None

    def load(self) -> None:
        """Load the model unless that has been done.

        Raises
        ------
        ConfigError
            If there is no such model.
        """
        if self._model is not None:
            return
        spacy = importlib.import_module("spacy")

        try:
            self._model = spacy.load(self._name)
        except OSError as error:
            raise ConfigError(
                f"There is no spaCy model {str(self._name)!r}; accepted are the name of an "
                "installed one or a folder."
            ) from error
        self._model.max_length = 2_000_000

    def detect(self, text: str) -> Sequence[Span]:
        """Return the entities of a text."""
        self.load()
        return [
            Span(entity.start_char, entity.end_char, _LABELS.get(entity.label_, "OTHER"))
            for entity in self._model(text).ents
            if entity.label_ in self._kinds
        ]
