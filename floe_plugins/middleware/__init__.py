"""The privacy gate in front of a server: ``--middleware floe_plugins.middleware.PrivacyGate``.

A server makes its middleware at its first request, and by then it has started. So the configuration
is read, and all detectors are loaded, where the class is fetched from here: what is wrong with it
stops the server before it listens.
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
