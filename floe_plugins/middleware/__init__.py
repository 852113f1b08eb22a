"""Middleware for servers: ``--middleware floe_plugins.middleware.NAME``.

`PrivacyGate` is the privacy gate in front of a server; `ExpertSessions` lets hosts send an expert's
server only what is new of their texts.

A server creates its middleware at its first request, long after its start. So this module reads the
configuration, and loads all detectors, when a class is imported: a mistake stops the server before
it accepts connections.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from floe_plugins.middleware.expert_sessions import ExpertSessions
    from floe_plugins.middleware.privacy_gate import PrivacyGate

__all__ = ["ExpertSessions", "PrivacyGate"]


def __getattr__(name: str) -> Any:
    if name == "PrivacyGate":
        from floe_plugins.middleware import privacy_gate

        privacy_gate.configured()
        return privacy_gate.PrivacyGate
    if name == "ExpertSessions":
        from floe_plugins.middleware import expert_sessions

        expert_sessions.configured()
        return expert_sessions.ExpertSessions
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
