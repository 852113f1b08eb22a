"""Detectors of other projects, if they are installed."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError
from floe_plugins.gate.detector import Span

_PRESIDIO_ENTITIES = (
    "CREDIT_CARD",
    "CRYPTO",
    "DATE_TIME",
    "EMAIL_ADDRESS",
    "IBAN_CODE",
    "IP_ADDRESS",
    "MAC_ADDRESS",
    "MEDICAL_LICENSE",
    "NRP",
    "PHONE_NUMBER",
    "URL",
    "US_BANK_NUMBER",
    "US_DRIVER_LICENSE",
    "US_ITIN",
    "US_PASSPORT",
    "US_SSN",
    "UK_NHS",
)


class PresidioDetector:
    """Calls Presidio's recognizers that use patterns and checks, without a language model.

    Parameters
    ----------
    language : str, optional
        The language whose recognizers are called.
    entities : sequence of str, optional
        Presidio's names of entities; by default all of its recognizers'.
    score : float, optional
        Findings with a lower score do not count.
    """

    name = "presidio"
    labels: Sequence[str] = (*_PRESIDIO_ENTITIES, "OTHER")
    default = False

    def __init__(
        self,
        *,
        language: str = "en",
        entities: Sequence[str] | None = None,
        score: float = 0.4,
    ) -> None:
        self._language = language
        self._entities = None if entities is None else frozenset(entities)
        self._score = score

    def load(self) -> None:
        """Import Presidio and build its recognizers, which exceeds the time limit of a text."""
        _recognizers(self._language)

    def detect(self, text: str) -> Sequence[Span]:
        """Return the findings of the recognizers."""
        spans = set()
        for recognizer in _recognizers(self._language):
            wanted = recognizer.supported_entities
            if self._entities is not None:
                wanted = [entity for entity in wanted if entity in self._entities]
            if not wanted:
                continue
            for found in recognizer.analyze(text, wanted, None) or ():
                if found.score >= self._score and found.start < found.end:
                    label = found.entity_type if found.entity_type in self.labels else "OTHER"
                    spans.add(Span(found.start, found.end, label))
        return sorted(spans)


@functools.cache
def _recognizers(language: str) -> tuple[Any, ...]:
    tldextract = importlib.import_module("tldextract")
    presidio = importlib.import_module("presidio_analyzer")

    # Its recognizers of e-mail and web addresses would fetch the list of public suffixes at the
    # first text; the package holds one.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    registry = presidio.RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language])
    # Leaves out spaCy's recognizers, which need a language model.
    return tuple(
        recognizer
        for recognizer in registry.recognizers
        if "spacy" not in type(recognizer).__name__.lower()
    )


# spaCy's names of entities, of OntoNotes and of the models for other languages.
_SPACY_LABELS = {
    "PERSON": "PERSON",
    "PER": "PERSON",
    "GPE": "LOCATION",
    "LOC": "LOCATION",
    "FAC": "LOCATION",
    "ORG": "ORGANIZATION",
    "NORP": "NRP",
    "DATE": "DATE_TIME",
}
_SPACY_KINDS = ("PERSON", "PER", "GPE", "LOC", "FAC", "ORG")


class SpacyDetector:
    """Calls the entity recognizer of a spaCy model.

    It takes tens of milliseconds per thousand characters, so a gate with it needs a longer
    `timeout_s`.

    Parameters
    ----------
    model : str or Path, optional
        The name of an installed model, or its folder. Loaded at the gate's start.
    kinds : sequence of str, optional
        Which of spaCy's entities count.
    """

    name = "spacy"
    labels: Sequence[str] = tuple(dict.fromkeys((*_SPACY_LABELS.values(), "OTHER")))
    default = False

    def __init__(
        self, model: str | Path = "en_core_web_sm", *, kinds: Sequence[str] = _SPACY_KINDS
    ) -> None:
        self._name = model
        self._kinds = frozenset(kinds)
        self._model: Any = None

    def load(self) -> None:
        """Load the model, unless it is already loaded.

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
            Span(entity.start_char, entity.end_char, _SPACY_LABELS.get(entity.label_, "OTHER"))
            for entity in self._model(text).ents
            if entity.label_ in self._kinds
        ]


FOLDER_VARIABLE = "FLOE_GLINER_MODEL"
"""Environment variable: the folder of the model."""

# GLiNER's name of a class -> label.
_GLINER_LABELS = {
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
_PIECE_CHARS, _PIECE_OVERLAP = 1000, 100


class GlinerDetector:
    """Calls a GLiNER model in a folder; nothing is downloaded.

    Parameters
    ----------
    folder : Path, optional
        The folder; that of ``FLOE_GLINER_MODEL`` by default. Loaded at the gate's start.
    threshold : float, optional
        Findings with a lower score do not count.
    """

    name = "gliner"
    labels: Sequence[str] = tuple(dict.fromkeys(_GLINER_LABELS.values()))
    default = False

    def __init__(self, folder: Path | None = None, *, threshold: float = 0.5) -> None:
        self._folder = folder
        self._threshold = threshold
        self._model: Any = None

    def load(self) -> None:
        """Load the model, unless it is already loaded.

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
        for start in range(0, max(1, len(text) - _PIECE_OVERLAP), _PIECE_CHARS - _PIECE_OVERLAP):
            piece = text[start : start + _PIECE_CHARS]
            found = self._model.predict_entities(
                piece, list(_GLINER_LABELS), threshold=self._threshold
            )
            for entity in found:
                if entity["start"] < entity["end"]:
                    label = _GLINER_LABELS[entity["label"]]
                    spans.add(Span(start + entity["start"], start + entity["end"], label))
        return sorted(spans)


class DetectSecretsDetector:
    """Calls every plugin of `detect-secrets` for every line."""

    name = "detect-secrets"
    labels: Sequence[str] = ("SECRET",)
    default = False

    def load(self) -> None:
        """Import detect-secrets, which exceeds the time limit of a text."""
        importlib.import_module("detect_secrets.settings")

    def detect(self, text: str) -> Sequence[Span]:
        """Return the secrets of a text."""
        settings = importlib.import_module("detect_secrets.settings")
        spans = set()
        start = 0
        with settings.default_settings():
            for line in text.splitlines(keepends=True):
                for plugin in settings.get_plugins():
                    for secret in plugin.analyze_line(filename="text", line=line, line_number=1):
                        value = secret.secret_value or line
                        at = max(0, line.find(value))
                        end = min(len(line), at + len(value))
                        spans.add(Span(start + at, start + end, "SECRET"))
                start += len(line)
        return sorted(spans)
