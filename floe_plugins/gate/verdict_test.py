from __future__ import annotations

import logging

import pytest

from floe_plugins.errors import ConfigError, PluginError
from floe_plugins.gate import Action, Decision, Gate, Policy, Span, decide
from floe_plugins.gate.detector import CLASSES, coverage, log_coverage

TEXT = "joe@example.org is at 93.184.216.34"


@pytest.mark.parametrize(
    ("actions", "decision", "redacted"),
    [
        ({"EMAIL": "clear", "IP_ADDRESS": "clear"}, Decision.CLEAR, None),
        (
            {"EMAIL": "redact", "IP_ADDRESS": "clear"},
            Decision.REDACTED,
            "<EMAIL> is at 93.184.216.34",
        ),
        (
            {"EMAIL": "clear", "*": "redact"},
            Decision.REDACTED,
            "joe@example.org is at <IP_ADDRESS>",
        ),
        ({"EMAIL": "redact", "IP_ADDRESS": "local"}, Decision.LOCAL, None),
        # Labels that the table does not name are local.
        ({"EMAIL": "clear"}, Decision.LOCAL, None),
        ({}, Decision.LOCAL, None),
    ],
)
def test_a_table_says_what_becomes_of_each_label(
    actions: dict[str, str], decision: Decision, redacted: str | None
) -> None:
    gate = Gate(detectors=["email", "ip-address"], policy="labels", actions=actions)
    verdict = gate.decide(TEXT)
    assert verdict.decision is decision
    assert verdict.redacted_text == redacted
    assert verdict.labels == ("EMAIL", "IP_ADDRESS")
    assert gate.decide("Nothing at all.").decision is Decision.CLEAR


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"policy": "labels"}, "actions are missing with the policy 'labels'; accepted is a table"),
        ({"actions": {"EMAIL": "clear"}}, "'strict'; accepted is no table"),
        ({"policy": "labels", "actions": ["EMAIL"]}, "accepted is a table from label to action"),
        ({"policy": "labels", "actions": {"EMAIL": "pass"}}, "'pass'; accepted are clear, redact"),
        ({"policy": "labels", "actions": {7: "clear"}}, "action for 7"),
        ({"policy": "labels", "actions": {"EMIAL": "clear"}}, "'EMIAL'; the detectors give"),
        ({"policy": ["strict"]}, "strict, redact, labels"),
        ({"timeout_s": "1"}, "timeout_s is '1'; accepted is a number"),
        ({"detectors": "email"}, "accepted is a list of names"),
    ],
)
def test_a_wrong_policy_is_refused_in_a_sentence(options: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match="The gate's") as caught:
        Gate(**options)  # type: ignore[arg-type]
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gate_does_not_change() -> None:
    gate = Gate(detectors=["email"], policy="labels", actions={"EMAIL": "clear"})
    for name in ("policy", "timeout_s", "max_chars", "detectors", "labels", "longest"):
        with pytest.raises(AttributeError):
            setattr(gate, name, None)
    assert gate.policy is Policy.LABELS
    assert gate.labels == {"EMAIL"}


def test_the_one_function_decides_by_the_gate_that_it_is_given() -> None:
    assert decide(TEXT).decision is Decision.LOCAL
    assert decide(TEXT, gate=Gate(policy="redact")).decision is Decision.REDACTED
    assert decide("Nothing at all.").decision is Decision.CLEAR
    assert str(Action.REDACT) == "redact"


def test_coverage_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    log_coverage.cache_clear()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            Gate(detectors=["email", "card"])
    (record,) = [each for each in caplog.records if "covers" in each.message]
    assert "covers: e-mail addresses; payment cards. Not covered: names of persons; " in str(
        record.message
    )
    known = coverage({"EMAIL", "SOMETHING_ELSE"})
    assert known.covered == ("e-mail addresses",)
    assert set(known.covered + known.uncovered) == set(CLASSES)


class Loading:
    """A detector that reads a model."""

    name = "loading"
    labels = ("THING",)
    longest: object = 10

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.loaded = 0

    def load(self) -> None:
        self.loaded += 1
        if self._error is not None:
            raise self._error

    def detect(self, text: str) -> list[Span]:
        return [Span(0, 3, "THING"), Span(1, 9, "LONGER")] if len(text) == 10 else []


def test_models_are_read_when_the_gate_is_made() -> None:
    detector = Loading()
    assert Gate(detectors=[detector]).longest == 10
    assert detector.loaded == 1
    with pytest.raises(PluginError, match="'loading' of plugin 'caller' cannot be loaded: OSError"):
        Gate(detectors=[Loading(OSError("no such file"))])


@pytest.mark.parametrize("longest", [0, 1.5, True, None])
def test_a_longest_finding_is_a_number_of_characters(longest: object) -> None:
    detector = Loading()
    detector.longest = longest
    with pytest.raises(ConfigError, match="longest of detector 'loading'"):
        Gate(detectors=[detector])


def test_the_longest_of_overlapping_findings_names_the_placeholder() -> None:
    detector = Loading()
    detector.labels = ("THING", "LONGER")  # type: ignore[assignment]
    gate = Gate(detectors=[detector], policy="redact")
    assert gate.decide("/;/;/;/;/;").redacted_text == "<LONGER>;"
