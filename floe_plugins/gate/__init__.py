"""The privacy gate: decides whether a text may leave the device."""

from floe_plugins.gate.detector import Detector, Span
from floe_plugins.gate.gate import Gate, Policy
from floe_plugins.gate.verdict import Decision, Failure, Verdict

__all__ = ["Decision", "Detector", "Failure", "Gate", "Policy", "Span", "Verdict"]
