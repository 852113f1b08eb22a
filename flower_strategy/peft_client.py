"""For ClientApps with training code of their own: adapters under PEFT's names.

A client that was written for FedAvg loads the arrays of a message into a PEFT model, trains it and
replies with its state dictionary. It stays as it is, except for two places::

    @app.train(mods=[peft_mod])
    def train(message, context):
        model = get_peft_model(my_base_model(), lora_config(message, lora_dropout=0.05))
        set_peft_model_state_dict(model, message.content["arrays"].to_torch_state_dict())
        ...
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from peft import LoraConfig

from flower_strategy.adapters.adapter import AdapterError, AdapterState
from flower_strategy.adapters.arrays import to_numpy
from flower_strategy.client import device_of
from flower_strategy.device.hardware import Stopwatch
from flower_strategy.messages import (
    ARRAYS_KEY,
    CONFIG_KEY,
    METRICS_KEY,
    message_bytes,
    received_adapter,
)

_TRAINERS_LOSS = "train_loss"
"""What transformers' trainers call the mean training loss."""


def lora_config(message: Message, *, lora_dropout: float = 0.0) -> LoraConfig:
    """Return the configuration of the adapter in a message: its rank, scaling and layers.

    The rank is the device's own and may change between rounds, so every message is asked. Options
    of PEFT that change an adapter's form or its scaling are the server's to choose.

    Parameters
    ----------
    message : Message
        What a function under `peft_mod` is called with.
    lora_dropout : float (default: 0.0)
        Probability that training leaves out an input of the LoRA factors.

    Raises
    ------
    AdapterError
        The message is not one that `peft_mod` has passed on.
    """
    arrays = message.content.array_records.get(ARRAYS_KEY, ArrayRecord())
    scaling = _scaling(message)
    adapter = AdapterState.from_peft(
        {name: to_numpy(array) for name, array in arrays.items()}, scaling=scaling
    )
    if not adapter.layers:
        raise AdapterError(
            f"The {message.metadata.message_type} message has no adapter under PEFT's names: "
            "register the function with mods=[peft_mod]."
        )
    return LoraConfig(
        r=adapter.rank,
        # PEFT divides by the rank; it takes an alpha that is no whole number.
        lora_alpha=scaling * adapter.rank,  # type: ignore[arg-type]
        target_modules=list(adapter.layers),
        lora_dropout=lora_dropout,
        # The weights come with the message.
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )


def peft_mod(
    message: Message, context: Context, call_next: Callable[[Message, Context], Message]
) -> Message:
    """Give a client adapters under PEFT's names, and send its reply in Floe's form: a Flower mod.

    The client gets the factors under the keys of PEFT's ``get_peft_model_state_dict``, and replies
    with arrays under the same keys and ``num-examples`` and ``train_loss`` (or ``train-loss``)
    among its metrics. To these the mod adds ``scaling`` and ``seconds``: download, the client's own
    work and upload, on the device's clock. The reply is in float32, and the client keeps nothing
    between rounds: it trains its cluster's adapter, not one of its own. A reply without arrays, as
    to ``evaluate``, and a message without an adapter pass unchanged.

    Parameters
    ----------
    message : Message
        A message of `FloeStrategy`.
    context : Context
        The node's context.
    call_next : Callable[[Message, Context], Message]
        The client's function, or the next mod.

    Raises
    ------
    AdapterError
        The reply has other arrays than the message had.
    """
    if ARRAYS_KEY not in message.content.array_records:
        return call_next(message, context)
    sent = received_adapter(message)
    config = message.content.config_records[CONFIG_KEY]
    # Nodes of one process share the content of their messages: it is not changed.
    received = copy.copy(message)
    factors = {name: Array(factor) for name, factor in sent.to_peft().items()}
    received.content = RecordDict({**message.content, ARRAYS_KEY: ArrayRecord(factors)})
    watch = Stopwatch(device_of(context, config), threads=torch.get_num_threads())
    reply = call_next(received, context)
    if reply.has_error() or ARRAYS_KEY not in reply.content.array_records:
        return reply
    trained = _trained(reply.content.array_records[ARRAYS_KEY], sent)
    metrics = dict(reply.content.metric_records.get(METRICS_KEY, MetricRecord()))
    if _TRAINERS_LOSS in metrics:
        metrics.setdefault("train-loss", metrics[_TRAINERS_LOSS])
    metrics["scaling"] = trained.scaling
    metrics["seconds"] = watch.finish(
        upload_bytes=trained.num_bytes, download_bytes=message_bytes(message)
    )
    reply.content = RecordDict(
        {
            **reply.content,
            ARRAYS_KEY: trained.to_arrays(),
            METRICS_KEY: MetricRecord(metrics),
        }
    )
    return reply


def _scaling(message: Message) -> float:
    return float(cast(float, message.content.config_records[CONFIG_KEY]["scaling"]))


def _trained(arrays: Mapping[str, Array], sent: AdapterState) -> AdapterState:
    """Return the adapter that a client replies with."""
    differing = sorted(arrays.keys() ^ sent.to_peft().keys())
    if differing:
        raise AdapterError(
            f"The client replies with other arrays than the LoRA factors that it was sent; "
            f"{len(differing)} differ, such as {differing[0]!r}. Make the model with "
            "flower_strategy.lora_config(message), and reply with get_peft_model_state_dict(model)."
        )
    factors = {name: np.asarray(to_numpy(array), np.float32) for name, array in arrays.items()}
    return AdapterState.from_peft(factors, scaling=sent.scaling)
