"""The detector holds what all detectors must, and the gate acts on what it finds."""

from collections.abc import Callable

from floe_badges.detector import BadgeDetector

from floe_plugins.gate import Gate
from floe_plugins.testing import DetectorConformance
from floe_plugins.testing.fixtures import gate_with as gate_with


class TestBadge(DetectorConformance):
    """Never raises, deterministic, linear time, spans in range, nothing lost between chunks."""

    detector = BadgeDetector()
    examples = ("Please let BDG-204817 in.", "BDG-000001", "BDG-204817, BDG-204818")
    clean = ("BDG-20481", "XBDG-204817", "A badge of honour.")


def test_the_gate_replaces_what_it_finds(gate_with: Callable[..., Gate]) -> None:
    """Under the policy redact, a placeholder stands in the badge's place."""
    verdict = gate_with(BadgeDetector(), policy="redact").decide("Let BDG-204817 in.")
    assert verdict.redacted_text == "Let <BADGE> in."
