"""The privacy gate in front of a server: ``--middleware floe_plugins.middleware.PrivacyGate``.

A server creates its middleware at its first request, long after its start. So this module reads the
configuration and loads all detectors when the class is imported: a mistake stops the server before
it accepts connections.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from floe_plugins.middleware.privacy_gate import PrivacyGate

__all__ = ["PrivacyGate"]


def __getattr__(name: str) -> Any:
    if name != "PrivacyGate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from floe_plugins.middleware.privacy_gate import PrivacyGate, configured

    configured()
    return PrivacyGate
