"""The factors that a device trains, beside others that stay as they are.

Both are one adapter to the model: a second one of PEFT's has its own products in every layer, 8 %
of a step of SmolLM2 on one core. Adding the fixed one to the weights would need a second copy of
these, to leave the base model as it was to the last bit.
"""

from __future__ import annotations

from functools import partial

import torch
from peft import PeftModel

from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.adapters.stacking import stacked


def beside(own: AdapterState, fixed: AdapterState | None) -> AdapterState:
    """Return one adapter: the terms of `own`, unchanged, and after them those of `fixed`.

    Its scaling is that of `own`; the factor B of `fixed` makes up for the difference.
    """
    if fixed is None:
        return own
    # Over the scaling in the sum, and times it again by the name: `own` stays to the last bit.
    parts = [(1 / own.scaling, adapter) for adapter in (own, fixed)]
    return AdapterState(stacked(parts).layers, scaling=own.scaling)


def own_factors(model: PeftModel, *, rank: int) -> dict[str, torch.nn.Parameter]:
    """Return the first terms of the model's adapter, as weights to train.

    They share the model's memory, so a step of an optimizer on them changes the model. After a
    backward pass only they have gradients, and those of the other terms are given back at once.

    Parameters
    ----------
    model : PeftModel
        The model with its adapter.
    rank : int
        Number of the terms.

    Returns
    -------
    dict[str, torch.nn.Parameter]
        Name of a factor, as in an adapter's file -> A of shape (rank, in) or B of shape
        (out, rank).
    """
    found = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        axis = 0 if ".lora_A." in name else 1
        own = weight
        if weight.shape[axis] > rank:
            own = torch.nn.Parameter(weight.detach().narrow(axis, 0, rank))
            take = partial(_take_gradient, own, axis)
            weight.register_post_accumulate_grad_hook(take)
        found[name.removesuffix(".default.weight") + ".weight"] = own
    return found


def _take_gradient(own: torch.nn.Parameter, axis: int, whole: torch.Tensor) -> None:
    """Add the first terms' part of a gradient to theirs, and drop the rest."""
    assert whole.grad is not None
    part = whole.grad.narrow(axis, 0, own.shape[axis])
    own.grad = part.clone() if own.grad is None else own.grad + part
    whole.grad = None
