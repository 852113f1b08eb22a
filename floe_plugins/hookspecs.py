"""The hooks that a plugin may implement, with `floe_plugins.hookimpl`.

Each returns a list of objects with a unique `name`. Registering makes a thing available; what is
used is up to the configuration, save that the gate asks every detector unless told otherwise.
"""

from collections.abc import Sequence

from floe_plugins import hookspec
from floe_plugins.gate.detector import Detector
from floe_plugins.hooks import ExpertKind, RankPolicyKind
from floe_plugins.models.source import ModelSource
from floe_plugins.routers import Router


@hookspec
def floe_register_detectors() -> Sequence[Detector]:  # type: ignore[empty-body]
    """Return privacy detectors, see `floe_plugins.gate.detector.Detector`."""


@hookspec
def floe_register_routers() -> Sequence[Router]:  # type: ignore[empty-body]
    """Return routers, see `floe_plugins.routers.Router`."""


@hookspec
def floe_register_experts() -> Sequence[ExpertKind]:  # type: ignore[empty-body]
    """Return kinds of experts, see `floe_plugins.hooks.ExpertKind`."""


@hookspec
def floe_register_model_sources() -> Sequence[ModelSource]:  # type: ignore[empty-body]
    """Return sources of models, see `floe_plugins.models.source.ModelSource`."""


@hookspec
def floe_register_rank_policies() -> Sequence[RankPolicyKind]:  # type: ignore[empty-body]
    """Return kinds of rank policies, see `floe_plugins.hooks.RankPolicyKind`."""
