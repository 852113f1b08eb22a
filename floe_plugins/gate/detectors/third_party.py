"""Presidio's recognizers, where `presidio-analyzer` is installed."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any

from floe_plugins.gate.detector import Span

_ENTITIES = (
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
    """Asks Presidio's recognizers that work by patterns and checks, without a language model.

    Parameters
    ----------
    language : str, optional
        The language whose recognizers are asked.
    entities : sequence of str, optional
        Presidio's names of what to look for; all that its recognizers know by default.
    score : float, optional
        What Presidio holds less likely than this is let be.
    """

    name = "presidio"
    labels: Sequence[str] = (*_ENTITIES, "OTHER")
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
        """Import Presidio and make its recognizers, which takes longer than a text may."""
        _recognizers(self._language)

    def detect(self, text: str) -> Sequence[Span]:
        """Return what the recognizers find."""
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
    # Those that need a language model say so by taking what it made of the text.
    return tuple(
        recognizer
        for recognizer in registry.recognizers
        if "spacy" not in type(recognizer).__name__.lower()
    )
