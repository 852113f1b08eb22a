"""The client side, as functions that any Flower ClientApp can call.

Each takes the message, the context and the node's data, does the work, and returns the reply::

    app = ClientApp()

    @app.query("profile")
    def profile(message, context):
        return client.profile(message, context, data=my_data(context))
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from flower_strategy.adapter import AdapterState
from flower_strategy.base_model import BaseModel, load_base_model
from flower_strategy.data.examples import Example, LocalData
from flower_strategy.devices import Device, Stopwatch, simulated_device, this_device
from flower_strategy.embedding import EmbeddingSettings, task_embedding
from flower_strategy.measuring import TrainingCost, measure_training
from flower_strategy.profiles import DeviceProfile
from flower_strategy.training import TrainingSettings, held_out_loss, train_adapter

ARRAYS_KEY = "arrays"
CONFIG_KEY = "config"
METRICS_KEY = "metrics"


def device_of(context: Context, config: ConfigRecord) -> Device:
    """Return the node's device.

    A real SuperNode is measured. A simulated node, which knows nothing but ``partition-id`` and
    ``num-partitions``, gets its class from the message's ``devices``.
    """
    node_config = context.node_config
    classes = cast(list[str], config.get("devices", []))
    if set(node_config) == {"partition-id", "num-partitions"} and classes:
        return simulated_device(classes, int(node_config["partition-id"]))
    return this_device(node_config)


def profile(
    message: Message, context: Context, *, data: LocalData, device: Device | None = None
) -> Message:
    """Answer ``query.profile``: the device's budget, measured, and its task embedding.

    Parameters
    ----------
    message : Message
        The query; its configuration holds `TrainingSettings` and ``embedding-*`` keys.
    context : Context
        The node's context.
    data : LocalData
        What the node holds.
    device : Device, optional
        The device; by default what `device_of` finds.
    """
    config = message.content.config_records[CONFIG_KEY]
    settings = TrainingSettings.from_record(config)
    device = device or device_of(context, config)
    base = load_base_model(settings.model, settings.dtype)
    cost = _training_cost(base, data.train, settings, device, config)
    embedding = task_embedding(
        base,
        [example.text for example in data.train],
        EmbeddingSettings(
            texts=int(cast(int, config.get("embedding-texts", 8))),
            max_length=settings.max_length,
            clip=float(cast(float, config.get("embedding-clip", 0.0))),
            noise=float(cast(float, config.get("embedding-noise", 0.0))),
        ),
    )
    found = DeviceProfile(
        device=device.name,
        label=data.label if device.simulated else "",
        memory_bytes=device.memory_bytes,
        bandwidth=device.bandwidth,
        num_examples=len(data.train),
        embedding=embedding,
        **vars(cost),
    )
    return Message(content=found.to_record(), reply_to=message)


def train(
    message: Message, context: Context, *, data: LocalData, device: Device | None = None
) -> Message:
    """Answer ``train``: the adapter that came, trained on the node's examples.

    The reply's metrics are ``num-examples``, ``scaling``, ``train-loss``, ``seconds`` (training
    and upload, on the device's clock).
    """
    config = message.content.config_records[CONFIG_KEY]
    settings = TrainingSettings.from_record(config)
    device = device or device_of(context, config)
    base = load_base_model(settings.model, settings.dtype)
    adapter = _received_adapter(message)
    watch = Stopwatch(device, threads=torch.get_num_threads())
    outcome = train_adapter(
        base,
        adapter,
        data.train,
        settings,
        order_seed=(
            settings.seed,
            int(cast(int, config.get("server-round", 0))),
            int(context.node_config.get("partition-id", context.node_id)),
        ),
    )
    seconds = watch.seconds() + device.upload_seconds(outcome.adapter.num_bytes)
    return Message(
        content=RecordDict(
            {
                ARRAYS_KEY: outcome.adapter.to_arrays(),
                METRICS_KEY: MetricRecord(
                    {
                        "num-examples": len(data.train),
                        "scaling": outcome.adapter.scaling,
                        "train-loss": outcome.loss,
                        "seconds": seconds,
                    }
                ),
            }
        ),
        reply_to=message,
    )


def evaluate(message: Message, context: Context, *, data: LocalData) -> Message:
    """Answer ``evaluate``: the loss on the node's held-out examples.

    The reply's metrics are ``num-examples`` (held-out tokens are ``num-tokens``) and
    ``held-out-loss``, nats per response token.
    """
    settings = TrainingSettings.from_record(message.content.config_records[CONFIG_KEY])
    base = load_base_model(settings.model, settings.dtype)
    loss, tokens = held_out_loss(base, _received_adapter(message), data.held_out, settings)
    return Message(
        content=RecordDict(
            {
                METRICS_KEY: MetricRecord(
                    {
                        "num-examples": len(data.held_out),
                        "num-tokens": tokens,
                        "held-out-loss": loss,
                    }
                )
            }
        ),
        reply_to=message,
    )


def _received_adapter(message: Message) -> AdapterState:
    config = message.content.config_records[CONFIG_KEY]
    return AdapterState.from_arrays(
        message.content.array_records[ARRAYS_KEY],
        scaling=float(cast(float, config["scaling"])),
    )


def _training_cost(
    base: BaseModel,
    examples: tuple[Example, ...],
    settings: TrainingSettings,
    device: Device,
    config: ConfigRecord,
) -> TrainingCost:
    """Measure the device; simulated ones share one measurement, since they share one machine."""
    first, second = cast(list[int], config.get("probe-ranks", [4, 32]))
    key = (settings, first, second)
    if not device.simulated or key not in _MEASURED:
        clock = replace(device, slowdown=1.0)
        cost = measure_training(base, examples, settings, clock, ranks=(first, second))
        if not device.simulated:
            return cost
        _MEASURED[key] = cost
    cost = _MEASURED[key]
    low, high = cost.step_seconds
    return replace(cost, step_seconds=(low * device.slowdown, high * device.slowdown))


_MEASURED: dict[tuple[TrainingSettings, int, int], TrainingCost] = {}
