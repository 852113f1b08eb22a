"""Kinds of experts and of rank policies: what plugins register for the two halves of Floe.

The halves own the interfaces of what a kind builds; this package imports neither of them, so the
protocols here name only what it must know. Configurations and arrays are therefore `Any`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

#: The kinds that the halves build themselves; no plugin may register these names.
RESERVED: Mapping[str, frozenset[str]] = {
    "floe_register_experts": frozenset({"completions", "in-process"}),
    "floe_register_rank_policies": frozenset({"deadline", "memory", "fixed", "uniform-min"}),
}


class BuiltExpert(Protocol):
    """A model that can be asked: :class:`vllm_logits_processor.experts.protocol.Expert`."""

    def start(self, prompts: Sequence[Sequence[int]], *, model: str, steps: int = 1) -> Future[Any]:
        """Begin a call and return at once; the future holds an ``ExpertReply``."""
        ...

    def score(self, prompt: Sequence[int], *, model: str) -> Future[float]:
        """Begin to score a text; the future holds the sum of ln p, in nats."""
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
        config : vllm_logits_processor.config_expert.ExpertConfig
            Section ``expert`` of the configuration.
        vocabulary : int
            Number of the expert's tokens; ids are below it.
        end_ids : int32 array
            The expert's end tokens, one event: their mass belongs on the first of them.

        Raises
        ------
        FloeError
            If the configuration does not do; one sentence, and the server does not start.
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
        config : flower_strategy.run_config.RunConfig
            The whole run configuration; `ranks` are the candidates.

        Raises
        ------
        FloeError
            If the configuration does not do; one sentence, and the run does not start.
        """
        ...
