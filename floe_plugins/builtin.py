"""What Floe itself registers, by the hooks that plugins use."""

from collections.abc import Sequence

from floe_plugins import hookimpl
from floe_plugins.gate.detector import Detector
from floe_plugins.gate.detectors import BUILT_IN_DETECTORS
from floe_plugins.hooks import ModelSource
from floe_plugins.models.embedded import EmbeddedSource
from floe_plugins.routers import BUILT_IN_ROUTERS, Router


@hookimpl
def floe_register_detectors() -> Sequence[Detector]:
    """Register the detectors of structured data."""
    return BUILT_IN_DETECTORS


@hookimpl
def floe_register_routers() -> Sequence[Router]:
    """Register the named routers."""
    return BUILT_IN_ROUTERS


@hookimpl
def floe_register_model_sources() -> Sequence[ModelSource]:
    """Register the models that come inside packages."""
    return (EmbeddedSource(),)
