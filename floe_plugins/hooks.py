"""The hooks that a plugin may implement, and the protocols of what it registers with them.

Each hook is marked with `floe_plugins.hookimpl` and returns a list of objects with a unique `name`.
The configuration chooses which of the registered objects are used. Only detectors need not be
chosen: the gate uses all of them unless its configuration names some.

`floe_plugins.gate.detector` describes detectors, `floe_plugins.routers` describes routers. The two
halves own the interfaces of the experts and rank policies that kinds build. This package imports
neither half, so configurations and arrays are `Any` here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from floe_plugins import hookspec

# The gate gets its detectors from the manager, and the manager its hooks from here.
if TYPE_CHECKING:
    from floe_plugins.gate.detector import Detector
    from floe_plugins.routers import Router

#: The kinds that the halves build themselves; no plugin may register these names.
RESERVED: Mapping[str, frozenset[str]] = {
    "floe_register_experts": frozenset({"completions", "in-process"}),
    "floe_register_rank_policies": frozenset({"deadline", "memory", "fixed", "uniform-min"}),
}


class BuiltExpert(Protocol):
    """An expert, see :class:`vllm_logits_processor.expert.protocol.Expert`."""

    def start(self, prompts: Sequence[Sequence[int]], *, model: str, steps: int = 1) -> Future[Any]:
        """Start a call and return at once; the future holds an ``ExpertReply``."""
        ...

    def score(self, prompt: Sequence[int], *, model: str) -> Future[float]:
        """Start to score a text; the future holds the sum of ln p, in nats."""
        ...

    def close(self) -> None:
        """End threads and connections."""
        ...


@runtime_checkable
class ExpertKind(Protocol):
    """A way to reach an expert, registered with the hook `floe_register_experts`."""

    @property
    def name(self) -> str:
        """The name by which the configuration chooses this kind: ``expert.kind``."""
        ...

    def build(self, config: Any, *, vocabulary: int, end_ids: Any) -> BuiltExpert:
        """Return the expert that a configuration describes.

        Parameters
        ----------
        config : vllm_logits_processor.config.ExpertConfig
            Section ``expert`` of the configuration.
        vocabulary : int
            Number of the expert's tokens; ids are below it.
        end_ids : int32 array
            The expert's end tokens. They are one event: the expert puts their mass on the first.

        Raises
        ------
        FloeError
            The configuration is wrong. The message is one sentence, and the server does not start.
        """
        ...


@runtime_checkable
class RankPolicyKind(Protocol):
    """A way to give devices their ranks, registered with the hook `floe_register_rank_policies`."""

    @property
    def name(self) -> str:
        """The name by which the run configuration chooses this kind: ``rank-policy``."""
        ...

    def build(self, config: Any) -> Any:
        """Return the policy of a run: a :class:`flower_strategy.ranks.RankPolicy`.

        Parameters
        ----------
        config : flower_strategy.config.RunConfig
            The whole run configuration; `ranks` are the candidates.

        Raises
        ------
        FloeError
            The configuration is wrong. The message is one sentence, and the run does not start.
        """
        ...


@runtime_checkable
class ModelSource(Protocol):
    """A source of models, registered with the hook `floe_register_model_sources`.

    Attributes
    ----------
    name : str
        The scheme: a model name ``name:reference`` goes to this source. Lower-case letters, digits,
        hyphens and underscores, a letter first, unique among all sources.
    """

    @property
    def name(self) -> str:
        """The scheme, e.g. ``embedded``."""
        ...

    def references(self) -> Sequence[str]:
        """Return the references on offer; none if they cannot be listed."""
        ...

    def resolve(self, reference: str, *, progress: bool = True) -> Path:
        """Make the checkpoint available and return its folder.

        Parameters
        ----------
        reference : str
            What follows ``name:``.
        progress : bool, optional
            Whether to show a progress bar on standard error.

        Returns
        -------
        Path
            A complete Hugging Face checkpoint folder: configuration, weights and tokenizer.

        Raises
        ------
        ModelError
            The reference is unknown or the checkpoint cannot be built. The message is one sentence
            that says what to do.
        """
        ...


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
    """Return sources of models, see `floe_plugins.hooks.ModelSource`."""


@hookspec
def floe_register_rank_policies() -> Sequence[RankPolicyKind]:  # type: ignore[empty-body]
    """Return kinds of rank policies, see `floe_plugins.hooks.RankPolicyKind`."""
