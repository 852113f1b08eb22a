"""Detectors that use other packages; each test needs its package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from floe_plugins.errors import ConfigError
from floe_plugins.gate import Decision, Gate
from floe_plugins.gate.detector import Detector
from floe_plugins.gate.detectors import BUILT_IN_DETECTORS
from floe_plugins.gate.detectors.third_party import (
    DetectSecretsDetector,
    GlinerDetector,
    PresidioDetector,
    SpacyDetector,
)

PACKAGES = {
    "detect-secrets": "detect_secrets",
    "gliner": "gliner",
    "presidio": "presidio_analyzer",
    "spacy": "spacy",
}


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not find_spec(package), reason=f"needs {package}")


def found(detector: Detector, text: str) -> set[tuple[str, str]]:
    return {(text[span.start : span.end], span.label) for span in detector.detect(text)}


def test_they_are_registered_where_installed_and_never_asked_by_default() -> None:
    registered = {detector.name for detector in BUILT_IN_DETECTORS}
    installed = {name for name, package in PACKAGES.items() if find_spec(package)}
    assert registered & set(PACKAGES) == installed
    assert not set(Gate().detectors) & set(PACKAGES)


@needs("presidio_analyzer")
def test_presidio_finds_by_patterns() -> None:
    text = "Charge 4111111111111111, receipt to joe@example.org."
    assert {("4111111111111111", "CREDIT_CARD"), ("joe@example.org", "EMAIL_ADDRESS")} <= found(
        PresidioDetector(), text
    )
    only = PresidioDetector(entities=("EMAIL_ADDRESS",))
    assert found(only, text) == {("joe@example.org", "EMAIL_ADDRESS")}
    assert found(PresidioDetector(), "What is a monad?") == set()


@needs("presidio_analyzer")
def test_a_gate_asks_presidio_where_it_is_named() -> None:
    gate = Gate(detectors=["presidio"], timeout_s=30)
    assert gate.decide("mail joe@example.org").decision is Decision.LOCAL
    assert gate.decide("Explain recursion.").decision is Decision.CLEAR


@needs("detect_secrets")
def test_detect_secrets_finds_keys_on_their_lines() -> None:
    text = 'first = 1\nkey = "AKIAIOSFODNN7EXAMPLX"\npassword = "hunter2xx"\n'
    assert {("AKIAIOSFODNN7EXAMPLX", "SECRET"), ("hunter2xx", "SECRET")} <= found(
        DetectSecretsDetector(), text
    )
    assert found(DetectSecretsDetector(), "How do I sort a list?") == set()


def test_spacy_finds_the_entities_of_a_model_in_a_folder(tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy")

    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns(
        [
            {"label": "PERSON", "pattern": "Natalia"},
            {"label": "GPE", "pattern": "Kazan"},
            {"label": "CARDINAL", "pattern": "two"},
        ]
    )
    pipeline.to_disk(tmp_path / "model")
    detector = SpacyDetector(tmp_path / "model")
    text = "Natalia has two cats in Kazan."
    assert found(detector, text) == {("Natalia", "PERSON"), ("Kazan", "LOCATION")}
    every = SpacyDetector(tmp_path / "model", kinds=("CARDINAL",))
    assert found(every, text) == {("two", "OTHER")}


@needs("spacy")
def test_a_spacy_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="no spaCy model 'nowhere'"):
        SpacyDetector("nowhere").load()


def test_gliner_needs_a_folder_with_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"accepted is one with a gliner_config\.json"):
        GlinerDetector(tmp_path).detect("anything")
