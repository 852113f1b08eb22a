from __future__ import annotations

from floe_plugins.gate.detectors.learned import LearnedDetector
from tools.learned_detector.measure import marked, measure


def test_marks_are_taken_out() -> None:
    assert marked("Ask [PERSON Ann Lee] in [LOCATION Bonn].") == (
        "Ask Ann Lee in Bonn.",
        [(4, 11, "PERSON"), (15, 19, "LOCATION")],
    )
    assert marked("x = values[i]") == ("x = values[i]", [])


def test_texts_of_every_kind_are_measured_and_few_have_a_wrong_finding() -> None:
    counts = measure(LearnedDetector())
    assert {"Code", "Logs", "Tables", "German", "Other languages"} <= counts.keys()
    assert sum(own.quiet for own in counts.values()) >= 0.9 * sum(
        own.texts for own in counts.values()
    )
    assert sum(own.met for own in counts.values()) >= 0.85 * sum(
        own.wanted for own in counts.values()
    )
