"""Finds the modules of a base model that carry LoRA factors.

PEFT says which it adapts, on a model without weights. Two kinds of what it would adapt are left
out: modules that text does not reach, such as a vision tower, and tensors that hold a matrix for
each expert. PEFT stacks the factors of all experts, and the product of two stacks is not what any
expert's matrix moves by, so that it cannot be averaged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from floe_plugins.errors import ConfigError, first_line
from flower_strategy.adapters.modules import EXPERTS, AdaptedModules, ModuleGroup
from flower_strategy.config_keys import ALL_LINEAR
from flower_strategy.device.model_checks import BaseModelError

LINEAR = (torch.nn.Linear, Conv1D)
"""The layers whose factors are a pair of matrices."""

_OUTPUT = "the output layer, left out as by PEFT's all-linear"
_EMBEDDING = "an embedding, no linear layer"
_UNREACHED = "not a part that text reaches"
_NOT_NAMED = "not among target-modules"
_TAKEN = "a layer whose name PEFT takes for that of the experts"
_OTHER = "no linear layer"


def find_modules(model: Any, targets: Sequence[str], *, name: str) -> AdaptedModules:
    """Return which modules of a model carry factors.

    Parameters
    ----------
    model : Any
        A causal language model of transformers on torch's ``meta`` device. PEFT's layers stay in
        it.
    targets : Sequence[str]
        ``all-linear``, or ends of names, as PEFT matches them.
    name : str
        The user's name for the model, for errors.

    Raises
    ------
    ConfigError
        A target is the end of no module's name that can carry factors.
    BaseModelError
        The model has no linear layer beside the output layer.
    """
    reasons = _Reasons(model, targets, name=name)
    reasons.check_targets(reasons.linear)
    sizes = _sizes(reasons.modules)
    weights = sum(weight.numel() for weight in model.parameters())
    read = set(_read_by_peft(model, targets, transposed=reasons.transposed, name=name))
    carry = {path: module for path, module in reasons.linear.items() if path in read}
    reasons.check_targets(carry)
    without = {path: reasons.of(path) for path in sizes if path not in carry}
    return AdaptedModules(
        architecture=type(model).__name__,
        shapes={path: shape_of(module) for path, module in carry.items()},
        groups=_grouped({path: (path, "") for path in carry}, sizes),
        others=_grouped(without, sizes),
        weights=weights,
        targets=_targets(carry, reasons.modules),
        transposed=all(isinstance(module, Conv1D) for module in carry.values()),
    )


def shape_of(module: Any) -> tuple[int, int]:
    """Return (out, in) of a linear layer; `Conv1D` stores its weight as (in, out)."""
    if isinstance(module, Conv1D):
        inner, out = module.weight.shape
        return int(out), int(inner)
    return int(module.out_features), int(module.in_features)


def _read_by_peft(model: Any, targets: Sequence[str], *, transposed: bool, name: str) -> list[str]:
    """Put PEFT's layers into a model; return the paths at which they are."""
    # Late, since not every command that reads a model adapts it.
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(
        r=1,
        target_modules=ALL_LINEAR if tuple(targets) == (ALL_LINEAR,) else list(targets),
        fan_in_fan_out=transposed,
        task_type="CAUSAL_LM",
    )
    try:
        inject_adapter_in_model(config, model, low_cpu_mem_usage=True)
    # PEFT knows more kinds of modules than one, and checks names for some models.
    except (ValueError, NotImplementedError, TypeError) as error:
        raise ConfigError(
            f"PEFT cannot adapt target-modules={','.join(targets)} of model {name!r}: "
            f"{first_line(error)}"
        ) from error
    return [path for path, module in model.named_modules() if isinstance(module, LoraLayer)]


class _Reasons:
    """A model's modules by what keeps them from carrying factors.

    Attributes
    ----------
    modules : dict[str, Any]
        Path -> module.
    linear : dict[str, Any]
        Those that could carry factors: linear layers that text reaches.
    """

    def __init__(self, model: Any, targets: Sequence[str], *, name: str) -> None:
        self._name = name
        self._targets = targets
        self._everything = tuple(targets) == (ALL_LINEAR,)
        self.modules: dict[str, Any] = dict(model.named_modules())
        self._output = model.get_output_embeddings()
        self._inside = ""
        if model.config.get_text_config() is not model.config:
            decoder = self._path_of(model.get_decoder())
            self._inside = decoder and f"{decoder}."
        self.linear = {
            path: module
            for path, module in self.modules.items()
            if isinstance(module, LINEAR) and self._is_reached(path)
        }

    @property
    def transposed(self) -> bool:
        """Whether the model has layers that store their weights as (in, out)."""
        return any(isinstance(module, Conv1D) for module in self.linear.values())

    def of(self, path: str) -> tuple[str, str]:
        """Return the path by which a module is shown, and why it carries no factors."""
        module = self.modules[path]
        if not self._is_reached(path):
            return self._outermost(path), _UNREACHED
        if isinstance(module, LINEAR):
            if module is self._output and self._everything:
                return path, _OUTPUT
            named = self._everything or any(_ends_so(path, each) for each in self._targets)
            return path, _TAKEN if named else _NOT_NAMED
        if isinstance(module, torch.nn.Embedding):
            return path, _EMBEDDING
        if _holds_experts(module):
            return path, EXPERTS
        return path, f"{_OTHER} ({type(module).__name__})"

    def check_targets(self, among: Mapping[str, Any]) -> None:
        """Check that every target is the end of a path among some.

        Raises
        ------
        ConfigError
            One is not.
        BaseModelError
            All linear layers are wanted, and there is none beside the output layer.
        """
        if self._everything:
            if all(module is self._output for module in among.values()):
                raise BaseModelError(
                    f"Model {self._name!r} has no linear layer that PEFT could adapt."
                )
            return
        for target in self._targets:
            if not any(_ends_so(path, target) for path in among):
                raise ConfigError(self._refused(target))

    def _refused(self, target: str) -> str:
        named = [path for path in self.modules if _ends_so(path, target)]
        why = "no module is called so"
        if named:
            why = f"{named[0]} carries no factors, since it is {self.of(named[0])[1]}"
        accepted = dict.fromkeys(path.rpartition(".")[2] for path in self.linear)
        return (
            f"target-modules={target} is not accepted for model {self._name!r}: {why}; accepted "
            f"are {ALL_LINEAR} or names among {', '.join(accepted)}."
        )

    def _path_of(self, wanted: Any) -> str:
        return next(path for path, module in self.modules.items() if module is wanted)

    def _is_reached(self, path: str) -> bool:
        """Tell whether text reaches a module; in a model of text alone all are."""
        return path.startswith(self._inside) or self.modules[path] is self._output

    def _outermost(self, path: str) -> str:
        """Return the part of the model around a module that does not hold the decoder."""
        parts = path.split(".")
        around = (".".join(parts[:end]) for end in range(1, len(parts)))
        return next((part for part in around if not self._inside.startswith(f"{part}.")), path)


def _holds_experts(module: Any) -> bool:
    """Tell whether a module has a tensor of matrices that is no convolution's kernel."""
    if "Conv" in type(module).__name__:
        return False
    return any(weight.ndim == 3 for weight in module.parameters(recurse=False))


def _sizes(modules: Mapping[str, Any]) -> dict[str, int]:
    """Return path -> numbers of its own matrices, of modules that have some.

    A matrix that several modules share counts for the first of them.
    """
    seen: set[int] = set()
    sizes = {}
    for path, module in modules.items():
        own = [weight for weight in module.parameters(recurse=False) if weight.ndim > 1]
        if own:
            sizes[path] = sum(weight.numel() for weight in own if id(weight) not in seen)
            seen |= {id(weight) for weight in own}
    return sizes


def _grouped(
    found: Mapping[str, tuple[str, str]], sizes: Mapping[str, int]
) -> tuple[ModuleGroup, ...]:
    """Put modules together whose names differ by numbers, and whose reasons do not."""
    members: dict[tuple[str, str], list[str]] = {}
    for path, (shown, reason) in found.items():
        members.setdefault((_starred(shown), reason), []).append(path)
    return tuple(
        ModuleGroup(
            name=name, count=len(paths), weights=sum(sizes[path] for path in paths), reason=reason
        )
        for (name, reason), paths in members.items()
    )


def _starred(path: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path)


def _ends_so(path: str, target: str) -> bool:
    """Tell whether PEFT's matching finds a target in a path."""
    return path == target or path.endswith(f".{target}")


def _targets(carry: Iterable[str], modules: Iterable[str]) -> tuple[str, ...]:
    """Return the shortest names by which PEFT finds these modules and no other."""
    carry = set(carry)
    ends = sorted({path.rpartition(".")[2] for path in carry})
    found = {path for path in modules if any(_ends_so(path, end) for end in ends)}
    return tuple(ends) if found == carry else tuple(sorted(carry))
