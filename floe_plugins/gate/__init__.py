"""The privacy gate: decides whether a text may leave the device."""

from floe_plugins.gate.conversation import Message
from floe_plugins.gate.detector import Detector, Span
from floe_plugins.gate.gate import Gate, decide
from floe_plugins.gate.profiles import Profile
from floe_plugins.gate.verdict import Action, Decision, Failure, Policy, Reason, Verdict

__all__ = [
    "Action",
    "Decision",
    "Detector",
    "Failure",
    "Gate",
    "Message",
    "Policy",
    "Profile",
    "Reason",
    "Span",
    "Verdict",
    "decide",
]
