"""Badge numbers are private, and an expert that contradicts the host is doubted."""

from collections.abc import Sequence

from floe_badges.detector import BadgeDetector
from floe_badges.router import DoubtRouter
from floe_plugins import hookimpl
from floe_plugins.gate import Detector
from floe_plugins.routers import Router


@hookimpl
def floe_register_detectors() -> Sequence[Detector]:
    """The gate asks every registered detector, unless its configuration names some."""
    return [BadgeDetector()]


@hookimpl
def floe_register_routers() -> Sequence[Router]:
    """A router is used where the configuration names it: ``"router": "doubt"``."""
    return [DoubtRouter()]
