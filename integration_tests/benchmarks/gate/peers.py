"""Other tools that find private data, measured in the same run where they are installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec

from floe_plugins.gate.detector import Detector
from integration_tests.benchmarks.gate.measure import Finder


def peers(spacy_model: str | None) -> dict[str, Callable[[], Finder]]:
    """Return how to start each peer that is installed, by name.

    Parameters
    ----------
    spacy_model : str or None
        A spaCy model by its name or folder; without one Presidio is asked with patterns only.
    """
    found: dict[str, Callable[[], Finder]] = {}
    if find_spec("presidio_analyzer"):
        found["presidio-patterns"] = _presidio_patterns
        if spacy_model is not None and find_spec("spacy"):
            found["presidio-spacy"] = lambda: _presidio_spacy(spacy_model)
    if find_spec("detect_secrets"):
        found["detect-secrets"] = _detect_secrets
    return found


def finder_of(detector: Detector) -> Finder:
    """Return the finder that asks one detector."""
    return lambda text: [(span.start, span.end) for span in detector.detect(text)]


def _presidio_patterns() -> Finder:
    from floe_plugins.gate.detectors.third_party import PresidioDetector

    return finder_of(PresidioDetector())


def _detect_secrets() -> Finder:
    from floe_plugins.gate.detectors.third_party import DetectSecretsDetector

    return finder_of(DetectSecretsDetector())


def _presidio_spacy(model: str) -> Finder:
    """Start Presidio as its documentation has it, with a spaCy model and its own thresholds."""
    presidio = importlib.import_module("presidio_analyzer")
    engines = importlib.import_module("presidio_analyzer.nlp_engine")

    configuration = {
        "nlp_engine_name": "spacy",
        "models": [{"lang_code": "en", "model_name": model}],
    }
    engine = presidio.AnalyzerEngine(
        nlp_engine=engines.NlpEngineProvider(nlp_configuration=configuration).create_engine(),
        supported_languages=["en"],
    )
    return lambda text: [(found.start, found.end) for found in engine.analyze(text, language="en")]
