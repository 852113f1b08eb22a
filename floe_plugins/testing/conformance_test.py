"""The suites on everything that Floe registers, and on objects that must not pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from floe_plugins.gate import Gate, Span
from floe_plugins.manager import PluginManager, plugin_manager
from floe_plugins.routers import RouterSignals
from floe_plugins.testing import DetectorConformance, RouterConformance
from floe_plugins.testing.fixtures import gate_with, load_plugin, router_signals

__all__ = ["gate_with", "load_plugin", "router_signals"]

#: By the detector's name; detectors without an entry use the suite's own passages.
EXAMPLES = {
    "card": "pay with 4111 1111 1111 1111 please",
    "email": "write to joe.bloggs@example.org today",
    "iban": "to GB82 WEST 1234 5698 7654 32 by Friday",
    "ip-address": "the host 192.168.17.4 is down",
    "phone": "call +44 20 7946 0018 now",
    "secret": "the key AKIAIOSFODNN7EXAMPLE is out",
    "us-ssn": "SSN 536-90-4399",
}

# The default detectors: third-party engines, used only if named, have their own speed.
_DEFAULTS = [
    each for each in plugin_manager().detectors.values() if getattr(each.value, "default", True)
]
for _registered in _DEFAULTS:
    _name = re.sub(r"\W", "_", _registered.name)
    _example = EXAMPLES.get(_registered.name)
    globals()[f"TestDetector_{_name}"] = type(
        f"TestDetector_{_name}",
        (DetectorConformance,),
        {"detector": _registered.value, "examples": (_example,) if _example else ()},
    )

for _router in plugin_manager().routers.values():
    _name = re.sub(r"\W", "_", _router.name)
    globals()[f"TestRouter_{_name}"] = type(
        f"TestRouter_{_name}", (RouterConformance,), {"router": _router.value}
    )


class Flawed:
    """A detector of digits with one flaw."""

    name = "digits"
    labels = ("DIGIT",)

    def __init__(self, detect: Callable[[str], Any]) -> None:
        self._detect = detect

    def detect(self, text: str) -> Any:
        return self._detect(text)


def spans(pattern: str, text: str) -> list[Span]:
    return [Span(found.start(), found.end(), "DIGIT") for found in re.finditer(pattern, text)]


def lazily(text: str) -> Sequence[Span]:
    if "\x00" in text:
        raise ValueError
    return []


def quadratically(text: str) -> Sequence[Span]:
    for place in range(0, len(text), 4):
        text.count("q", 0, place)
        text.count("z", 0, place)
    return []


class Forgetful:
    """Finds everything the first time."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, text: str) -> Sequence[Span]:
        if text in self.seen:
            return []
        self.seen.add(text)
        return spans(r"\d+", text)


@pytest.mark.parametrize(
    ("detect", "test"),
    [
        (lazily, "test_it_never_raises_and_its_spans_are_in_range"),
        (lambda text: None, "test_it_never_raises_and_its_spans_are_in_range"),
        (lambda text: "none", "test_it_never_raises_and_its_spans_are_in_range"),
        (lambda text: [Span(0, 1, "DIGIT")], "test_it_never_raises_and_its_spans_are_in_range"),
        (lambda text: [Span(0, len(text), "X")], "test_it_never_raises_and_its_spans_are_in_range"),
        (lambda text: spans(r"\d*", text), "test_it_never_raises_and_its_spans_are_in_range"),
        (Forgetful(), "test_it_is_deterministic"),
        # Fails only on a text longer than the overlap: it must see the beginning.
        (
            lambda text: spans(r"\d+", text) if text.startswith("and then some") else [],
            "test_chunks_together_find_what_the_whole_does",
        ),
        (quadratically, "test_it_takes_linear_time"),
        (lambda text: [], "test_it_finds_the_examples_and_nothing_in_clean_texts"),
        (
            lambda text: spans(r"\w", text) and [Span(0, 1, "DIGIT")],
            "test_it_finds_the_examples_and_nothing_in_clean_texts",
        ),
    ],
)
def test_a_flawed_detector_does_not_pass(detect: Callable[[str], Any], test: str) -> None:
    class Suite(DetectorConformance):
        detector = Flawed(detect)
        examples = ("number 12",)
        clean = ("number",)

    with pytest.raises((AssertionError, ValueError)):
        getattr(Suite(), test)()


def test_a_detector_with_too_short_a_reach_does_not_pass() -> None:
    class Short(Flawed):
        reach = 0

    class Suite(DetectorConformance):
        detector = Short(lambda text: spans("a long number of 12", text))
        examples = ("this is a long number of 12",)

    with pytest.raises(AssertionError, match="is new"):
        Suite().test_new_text_is_found_from_what_the_detector_reads_of_it()
    Short.reach = 18
    Suite().test_new_text_is_found_from_what_the_detector_reads_of_it()


class FlawedRouter:
    name = "flawed"

    def __init__(self, log_odds: Callable[[RouterSignals], Any]) -> None:
        self._log_odds = log_odds

    def log_odds(self, signals: RouterSignals) -> Any:
        return self._log_odds(signals)


class Drifting:
    """Answers a little more each time."""

    asked = 0.0

    def __call__(self, signals: RouterSignals) -> Any:
        self.asked += 1.0
        return signals.evidence + self.asked


def in_place(signals: RouterSignals) -> Any:
    signals.evidence[...] += 1.0
    return signals.evidence


@pytest.mark.parametrize(
    ("log_odds", "test"),
    [
        (
            lambda signals: np.log(signals.host_entropy),
            "test_it_answers_with_one_finite_number_per_row",
        ),
        (lambda signals: np.zeros(3), "test_it_answers_with_one_finite_number_per_row"),
        (
            lambda signals: signals.evidence - signals.evidence.mean(),
            "test_a_row_does_not_depend_on_its_neighbours",
        ),
        (Drifting(), "test_it_is_deterministic"),
        (lambda signals: np.full(64, np.nan), "test_the_weights_sum_to_one"),
        (in_place, "test_it_leaves_its_signals_as_they_are"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_flawed_router_does_not_pass(log_odds: Callable[[RouterSignals], Any], test: str) -> None:
    class Suite(RouterConformance):
        router = FlawedRouter(log_odds)

    with pytest.raises(AssertionError):
        getattr(Suite(), test)()


def test_every_example_is_of_a_detector_that_is_there() -> None:
    assert set(EXAMPLES) <= {each.name for each in _DEFAULTS}


def test_a_detector_whose_name_is_no_name_does_not_pass() -> None:
    class Suite(DetectorConformance):
        detector = Flawed(lambda text: [])

    Suite.detector.name = "A b"
    with pytest.raises(AssertionError):
        Suite().test_it_says_what_it_is()


def test_the_fixtures(
    load_plugin: Callable[[str], PluginManager],
    gate_with: Callable[..., Gate],
    router_signals: Callable[..., RouterSignals],
) -> None:
    assert [plugin.name for plugin in load_plugin("none").plugins] == ["floe"]
    gate = gate_with("email", policy="redact")
    assert gate.decide("joe@example.org").redacted_text == "<EMAIL>"
    assert router_signals(3).evidence.shape == (3,)
