"""The model that a device keeps at the end of a run, and its folder for vLLM or llama.cpp."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from floe_plugins import files
from floe_plugins.errors import FloeError
from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.adapters.gguf_lora import GGUF_FILE
from flower_strategy.adapters.mean import Aggregate, truncate
from flower_strategy.adapters.peft_folder import CONFIG_FILE, WEIGHTS_FILE, save_adapter
from flower_strategy.adapters.stacking import is_zero, stacked
from flower_strategy.config_keys import EXPORT_RANKS
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel, adapted_modules
from flower_strategy.device.kept_state import DeviceState
from flower_strategy.device.loss import ExampleLosses, example_losses
from flower_strategy.settings import TrainingSettings

logger = logging.getLogger("flwr")

FOLDER_KEY = "device-adapter"
"""The key of ``--node-config`` that names the folder."""

_ERRORS = 2.0
_LOST = 1e-4
_ADAPTER_FILES = {CONFIG_FILE, WEIGHTS_FILE, GGUF_FILE}


@dataclass(frozen=True, eq=False)
class KeptModel:
    """The model that a device keeps.

    Attributes
    ----------
    name : str
        One of `flower_strategy.messages.KEEPS`.
    adapter : AdapterState
        Its adapter on the base model.
    """

    name: str
    adapter: AdapterState


def choose_model(
    base: BaseModel,
    cluster: AdapterState,
    kept: DeviceState | None,
    examples: tuple[Example, ...],
    settings: TrainingSettings,
    *,
    measured: ExampleLosses | None,
) -> KeptModel:
    """Return the model that a device keeps: its own, unless another is clearly better.

    Its own is the cluster's adapter and what the device has learned that the server does not have,
    ``cluster + (own - sent)``. The cluster's adapter by itself, or the device's own by itself on
    the base model, is kept where its loss on the examples is lower by more than two standard errors
    of the paired differences. A device that keeps no state has the cluster's alone.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    cluster : AdapterState
        The cluster's adapter, as exported.
    kept : DeviceState or None
        What the device keeps of the run.
    examples : tuple[Example, ...]
        The device's validation examples.
    settings : TrainingSettings
        How losses are measured.
    measured : ExampleLosses or None
        The cluster's adapter's losses on the examples; None where there are none.
    """
    if kept is None or is_zero(kept.own):
        return KeptModel("cluster", cluster)
    parts = [(1.0, cluster), (1.0, kept.own)]
    if kept.sent is not None:
        parts.append((-1.0, kept.sent))
    own = KeptModel("own", stacked(parts))
    if measured is None:
        return own
    alone = KeptModel("alone", kept.own)
    others = [(alone, example_losses(base, alone.adapter, examples, settings))]
    if kept.is_all_sent:
        # The two differ by the rounding of eight bits: a second pass would measure the same.
        losses = measured
    else:
        losses = example_losses(base, own.adapter, examples, settings)
        others.append((KeptModel("cluster", cluster), measured))
    gains = [(found.better_by(losses), model) for model, found in others]
    better = [(gain, model) for (gain, error), model in gains if gain > _ERRORS * error]
    return max(better, key=lambda pair: pair[0])[1] if better else own


def compact(adapter: AdapterState) -> tuple[Aggregate, int]:
    """Return an adapter at the smallest rank of vLLM's that keeps it, and that rank.

    A ten-thousandth of its energy may be left out: as much as the rounding of eight bits adds.
    """
    cuts = ((truncate(adapter, rank), rank) for rank in EXPORT_RANKS)
    return next(
        (
            (cut, rank)
            for cut, rank in cuts
            if cut.discarded_energy <= _LOST or rank == EXPORT_RANKS[-1]
        )
    )


def write_model(
    folder: Path, model: KeptModel, base: BaseModel, settings: TrainingSettings
) -> None:
    """Write the kept model's adapter; log why where that is not possible.

    A reader finds the earlier adapter, none, or the new one. A folder that holds anything else than
    an adapter is left as it is.
    """
    folder = folder.expanduser().absolute()
    try:
        if folder.exists() and (found := {path.name for path in folder.iterdir()} - _ADAPTER_FILES):
            logger.error(
                "--node-config %s=%s holds %s, which is no adapter, and is left as it is: name a "
                "folder that is new or empty.",
                FOLDER_KEY,
                folder,
                sorted(found)[0],
            )
            return
        modules = adapted_modules(settings.model, settings.target_modules)
        cut, rank = compact(model.adapter)
        folder.parent.mkdir(parents=True, exist_ok=True)
        files.remove_parts(folder)
        with files.new_folder(folder, replace=True, durable=True) as part:
            save_adapter(
                cut.adapter,
                part,
                rank=rank,
                base_model=base.path,
                modules=modules if dict(modules.shapes) == model.adapter.shapes else None,
            )
    except (OSError, FloeError) as error:
        logger.error("The device's adapter is not written to %s: %s", folder, error)
        return
    logger.info("Wrote the device's adapter of rank %d to %s.", rank, folder)
