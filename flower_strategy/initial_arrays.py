"""The adapter that a run begins with."""

from __future__ import annotations

from flwr.app import ArrayRecord

from flower_strategy.adapters.adapter import initial_adapter
from flower_strategy.adapters.modules import AdaptedModules
from flower_strategy.device.base_model import check_base_model
from flower_strategy.strategy import FloeStrategy


def make_initial_arrays(
    strategy: FloeStrategy, *, modules: AdaptedModules | None = None
) -> ArrayRecord:
    """Return the adapter that a strategy's run begins with, for `FloeStrategy.start`.

    The strategy learns which modules of the base model carry factors: it logs them, writes them
    into the manifest, and exports adapters by them.

    Parameters
    ----------
    strategy : FloeStrategy
        The strategy of the run.
    modules : AdaptedModules, optional
        What `check_base_model` has returned for its base model; it is called if not given.

    Raises
    ------
    FloeError
        The base model is none that devices could train, see `check_base_model`.
    """
    training = strategy.training
    if modules is None:
        modules = check_base_model(
            training.model, max_length=training.max_length, target_modules=training.target_modules
        )
    strategy.modules = modules
    initial = initial_adapter(modules.shapes, rank=strategy.server_rank, seed=training.seed)
    return initial.to_arrays()
