"""Which modules of a base model carry LoRA factors, which do not, and why.

The device's side finds out (`flower_strategy.device.target_modules`); the server logs it, writes it
into the manifest, and exports adapters by it, without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EXPERTS = "one tensor with a matrix for each expert, which carries no pair of factors"
"""Why the experts of a mixture carry no factors."""


@dataclass(frozen=True, kw_only=True)
class ModuleGroup:
    """Modules that are the same in every layer.

    Attributes
    ----------
    name : str
        Their path, with ``*`` for the numbers in it: ``model.layers.*.self_attn.q_proj``.
    count : int
        How many there are.
    weights : int
        Numbers that their weights hold together; a weight that two modules share counts for the
        first of them.
    reason : str (default: "")
        Why they carry no factors; empty if they do.
    """

    name: str
    count: int
    weights: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaptedModules:
    """The modules of a base model that carry factors.

    Attributes
    ----------
    architecture : str
        The model's class in transformers, by which vLLM knows it, too.
    shapes : Mapping[str, tuple[int, int]]
        Path of each such module -> (out, in), the shape of its weight.
    groups : tuple[ModuleGroup, ...]
        The same modules by place.
    others : tuple[ModuleGroup, ...]
        Modules with matrices that carry no factors, with the reason.
    weights : int
        Numbers that the whole model holds; tied weights count once.
    targets : tuple[str, ...]
        What PEFT is to call ``target_modules``: ends of names if no other module has them, else the
        paths.
    transposed : bool (default: False)
        Whether their weights are stored as (in, out), as by GPT-2's ``Conv1D``: PEFT's
        ``fan_in_fan_out``. The factors are the same either way.
    """

    architecture: str
    shapes: Mapping[str, tuple[int, int]]
    groups: tuple[ModuleGroup, ...]
    others: tuple[ModuleGroup, ...]
    weights: int
    targets: tuple[str, ...]
    transposed: bool = False

    @property
    def share(self) -> float:
        """Share of the model's weights that these modules hold, in [0, 1]."""
        return sum(group.weights for group in self.groups) / max(self.weights, 1)

    @property
    def names(self) -> tuple[str, ...]:
        """The last parts of the modules' paths, each once, in the order of the model."""
        return tuple(dict.fromkeys(name.rpartition(".")[2] for name in self.shapes))

    @property
    def is_mixture(self) -> bool:
        """Whether the model has experts whose matrices are one tensor."""
        return any(group.reason == EXPERTS for group in self.others)

    def trained(self, rank: int) -> int:
        """Return how many numbers an adapter of a rank has."""
        return rank * sum(out + inner for out, inner in self.shapes.values())

    def left_out(self) -> dict[str, list[ModuleGroup]]:
        """Return reason -> the groups without factors that it holds for."""
        reasons: dict[str, list[ModuleGroup]] = {}
        for group in self.others:
            reasons.setdefault(group.reason, []).append(group)
        return reasons

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest says of them."""
        return {
            "architecture": self.architecture,
            "weights": self.weights,
            "share": self.share,
            "with_factors": [
                {"name": group.name, "count": group.count, "weights": group.weights}
                for group in self.groups
            ],
            "without_factors": [
                {
                    "name": group.name,
                    "count": group.count,
                    "weights": group.weights,
                    "reason": group.reason,
                }
                for group in self.others
            ],
        }
