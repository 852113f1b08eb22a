"""The client side, as functions that any Flower ClientApp can call.

Each takes the message, the context and the node's data, does the work, and returns the reply::

    app = ClientApp()

    @app.query("profile")
    def profile(message, context):
        return client.profile(message, context, data=my_data(context))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import AdapterState, initial_adapter
from flower_strategy.adapters.stacking import is_zero, stacked
from flower_strategy.data.examples import Example, LocalData
from flower_strategy.device.base_model import BaseModel, load_base_model
from flower_strategy.device.embedding import least_cosine
from flower_strategy.device.embedding_noise import device_embedding
from flower_strategy.device.encoding import encoder_of
from flower_strategy.device.gpu import warn_of_idle_gpu
from flower_strategy.device.hardware import Device, Stopwatch, simulated_device, this_device
from flower_strategy.device.kept_model import FOLDER_KEY, choose_model, write_model
from flower_strategy.device.kept_state import DeviceState, load_state
from flower_strategy.device.loss import check_held_out, losses_of_parts
from flower_strategy.device.preparation import check_training
from flower_strategy.device.training import train_adapter
from flower_strategy.device.training_cost import (
    COPIES_PER_FACTOR,
    CostKey,
    TrainingCost,
    cached_cost,
    longest,
    measure_training,
    training_memory,
)
from flower_strategy.messages import (
    ARRAYS_KEY,
    BEGAN_KEY,
    CONFIG_KEY,
    COUNTED_KEY,
    DEADLINE_KEY,
    FINAL_KEY,
    KEEPS,
    METRICS_KEY,
    RANK_KEY,
    ROUND_KEY,
    ROUNDS_KEY,
    RUN_KEY,
    STORED_KEY,
    TRAINING_SECONDS_KEY,
    message_bytes,
    received_adapter,
)
from flower_strategy.profile import SIMULATED_IDENTITY, DeviceProfile, Form
from flower_strategy.settings import EmbeddingSettings, TrainingSettings
from flower_strategy.simulation import is_simulated, partition_of

_SLACK = 0.5
"""Share of a step that must fit for a device to begin another one."""


def device_of(context: Context, config: ConfigRecord, *, memory_bytes: int | None = None) -> Device:
    """Return the node's device.

    A real SuperNode is measured. A simulated node gets its class from the message's ``devices``;
    `flower_strategy.simulation.is_simulated` tells which nodes are simulated.

    Parameters
    ----------
    context : Context
        The node's context.
    config : ConfigRecord
        The message's configuration.
    memory_bytes : int, optional
        Memory that training may use on a real device, see `this_device`.
    """
    classes = cast(list[str], config.get("devices", []))
    if is_simulated(context) and classes:
        partition_id, _ = partition_of(context.node_config)
        return simulated_device(classes, partition_id, waits=config.get("clock") == "real")
    return this_device(context.node_config, memory_bytes=memory_bytes)


def identity_of(context: Context) -> str:
    """Return the node's identity, which outlives its id; see `DeviceProfile`."""
    if is_simulated(context):
        return f"{SIMULATED_IDENTITY}{partition_of(context.node_config)[0]}"
    name = context.node_config.get("name", "")
    return f"name:{name}" if name != "" else ""


def profile(
    message: Message,
    context: Context,
    *,
    data: LocalData,
    device: Device | None = None,
    keeps_state: bool = True,
) -> Message:
    """Answer ``query.profile`` with the device's measured budget and its task embedding.

    Parameters
    ----------
    message : Message
        The query; its configuration holds `TrainingSettings`, `EmbeddingSettings`, the
        ``probe-ranks`` to time, and ``refresh`` (see `cached_cost`).
    context : Context
        The node's context.
    data : LocalData
        The node's local data.
    device : Device, optional
        The device; by default that of `device_of`.
    keeps_state : bool (default: True)
        False for training code of one's own under `peft_mod`: it trains all that it gets, and sends
        float32, four times as many bytes.
    """
    config = message.content.config_records[CONFIG_KEY]
    settings = TrainingSettings.from_record(config)
    base = load_base_model(settings.model, settings.dtype, settings.quantization)
    check_training(base, data.train, settings)
    how = EmbeddingSettings.from_record(config)
    embedding = device_embedding(base, data, how, context.node_config)
    device = device or device_of(context, config, memory_bytes=training_memory(base))
    warn_of_idle_gpu(base.device.type, simulated=device.simulated)
    cost = _training_cost(base, data.train, settings, device, config)
    if not keeps_state:
        cost = replace(cost, upload_per_rank=cost.bytes_per_rank // COPIES_PER_FACTOR)
    found = DeviceProfile(
        device=device.name,
        label=data.label if device.simulated else "",
        identity=identity_of(context),
        form=_form_of(base, data.train, settings),
        memory_bytes=device.memory_bytes,
        bandwidth=device.bandwidth,
        num_examples=len(data.train),
        embedding=embedding.vector,
        embedding_error=embedding.error,
        embedding_noise=embedding.noise,
        least_cosine=least_cosine(base, data.train, embedding, how),
        keeps_state=keeps_state,
        **vars(cost),
    )
    return Message(content=found.to_record(), reply_to=message)


def train(
    message: Message, context: Context, *, data: LocalData, device: Device | None = None
) -> Message:
    """Answer ``train``: train the device's own adapter on top of its cluster's.

    The device keeps its own adapter, AdamW's moments and its place in the data in
    ``context.state``. The cluster's adapter, less what the device itself has sent, is added to the
    base model and stays as it is. The reply has the device's own adapter, all that it has learned
    since it began, in eight bits; what that rounding leaves out goes into the next one.

    To a message that names no run, as Flower's FedAvg sends it, the device keeps nothing: it trains
    the adapter that came, and replies with it in float32.

    The reply's metrics are ``num-examples``, ``scaling``, ``train-loss``, ``steps`` (of this
    round), ``began`` (the round in which the own adapter began, if there is one),
    ``training-seconds`` and ``seconds`` (download, training and upload), on the device's clock. A
    simulated device whose clock is ``real`` replies only after these seconds.

    Parameters
    ----------
    message : Message
        A cluster's adapter, its scaling and `TrainingSettings`; the round and the rounds of the
        run, which the learning rates follow; the run's name, the round in which the server thinks
        that the device began, and the seconds that the round may take.
    context : Context
        The node's context; its state is changed.
    data : LocalData
        The node's local data.
    device : Device, optional
        The device; by default that of `device_of`.
    """
    config = message.content.config_records[CONFIG_KEY]
    settings = TrainingSettings.from_record(config)
    device = device or device_of(context, config)
    base = load_base_model(settings.model, settings.dtype, settings.quantization)
    watch = Stopwatch(device, threads=torch.get_num_threads())
    server_round, num_rounds = (cast(int, config.get(key, 0)) for key in (ROUND_KEY, ROUNDS_KEY))
    cluster = received_adapter(message)
    kept = _own_state(context, config, cluster, settings) if RUN_KEY in config else None
    own = cluster if kept is None else kept.own
    down = message_bytes(message)
    up = own.num_bytes if kept is None else int8.encoded_bytes(own)
    outcome = train_adapter(
        base,
        own,
        data.train,
        settings,
        fixed=_fixed(cluster, kept),
        progress=None if kept is None else kept.progress,
        order_seed=(settings.seed, *_order_began(kept, server_round), _order_of(context)),
        server_round=server_round,
        num_rounds=num_rounds,
        enough=_deadline(config, watch),
    )
    metrics = MetricRecord(
        {
            "num-examples": len(data.train),
            "scaling": outcome.adapter.scaling,
            "train-loss": outcome.loss,
            "steps": outcome.steps,
        }
    )
    if kept is None:
        arrays = outcome.adapter.to_arrays()
    else:
        arrays = int8.encode(outcome.adapter)
        kept.after(outcome, arrays, server_round=server_round).save(context.state)
        metrics[BEGAN_KEY] = kept.began
    metrics[TRAINING_SECONDS_KEY] = watch.seconds()
    metrics["seconds"] = watch.finish(upload_bytes=up, download_bytes=down)
    return Message(content=RecordDict({ARRAYS_KEY: arrays, METRICS_KEY: metrics}), reply_to=message)


def _own_state(
    context: Context, config: ConfigRecord, cluster: AdapterState, settings: TrainingSettings
) -> DeviceState:
    """Return what the device goes on with, at the rank and scaling that the message asks for."""
    rank = cast(int, config.get(RANK_KEY, cluster.rank))
    kept = _kept_state(context, config, cluster)
    if kept is not None and kept.own.rank == rank:
        return kept.rescaled(cluster.scaling)
    initial = initial_adapter(cluster.shapes, rank=rank, seed=settings.seed)
    if kept is None:
        return DeviceState(
            run=str(config[RUN_KEY]),
            began=cast(int, config.get(ROUND_KEY, 0)),
            own=initial.with_scaling(cluster.scaling),
        )
    return kept.at(rank, cluster.scaling, initial=initial)


def _kept_state(
    context: Context, config: ConfigRecord, cluster: AdapterState
) -> DeviceState | None:
    """Return what the device keeps of the message's run."""
    began, counted, stored = (
        cast(int, config.get(key, 0)) for key in (BEGAN_KEY, COUNTED_KEY, STORED_KEY)
    )
    return load_state(
        context.state,
        run=str(config.get(RUN_KEY, "")),
        began=began,
        counted=counted,
        stored=stored,
        shapes=cluster.shapes,
    )


def _fixed(cluster: AdapterState, kept: DeviceState | None) -> AdapterState | None:
    """Return the cluster's adapter less the device's own part in it; None if that is nothing."""
    if kept is None:
        return None
    parts = [(1.0, cluster)]
    if kept.sent is not None:
        parts.append((-1.0, kept.sent))
    parts = [(weight, adapter) for weight, adapter in parts if not is_zero(adapter)]
    return stacked(parts) if parts else None


def _deadline(config: ConfigRecord, watch: Stopwatch) -> Callable[[int], bool]:
    """Return whether one more step, as long as those before, would pass the training's deadline."""
    seconds = float(cast(float, config.get(DEADLINE_KEY, 0.0)))

    def enough(steps: int) -> bool:
        # A step that is begun in time and ends a little late costs less than one left out.
        planned = watch.seconds() * (steps + _SLACK) / steps
        return seconds > 0 and planned > seconds

    return enough


def evaluate(message: Message, context: Context, *, data: LocalData) -> Message:
    """Answer ``evaluate`` with the loss on the node's held-out and validation examples.

    The reply's metrics are ``num-examples``, ``num-tokens`` (their response tokens, the loss's
    weight) and ``held-out-loss`` in nats per response token, and, of a device that has validation
    examples, ``validation-loss`` and ``validation-tokens``. To its last message of a run a device
    adds which model it ``keeps``, see `flower_strategy.device.kept_model`; it writes that model's
    adapter into the folder ``device-adapter`` of its ``--node-config``, if that names one.

    Parameters
    ----------
    message : Message
        An adapter, its scaling and `TrainingSettings`; whether it is ``final``, and then the run's
        name and the round in which the server thinks that the device began.
    context : Context
        The node's context.
    data : LocalData
        The node's local data.
    """
    config = message.content.config_records[CONFIG_KEY]
    settings = TrainingSettings.from_record(config)
    base = load_base_model(settings.model, settings.dtype, settings.quantization)
    cluster = received_adapter(message)
    check_held_out(data.held_out)
    parts = [data.held_out, *([data.validation] if data.validation else [])]
    held_out, *validated = losses_of_parts(base, cluster, parts, settings)
    metrics = MetricRecord(
        {
            "num-examples": len(data.held_out),
            "num-tokens": held_out.num_tokens,
            "held-out-loss": held_out.mean,
        }
    )
    measured = validated[0] if validated else None
    if measured is not None:
        metrics["validation-loss"] = measured.mean
        metrics["validation-tokens"] = measured.num_tokens
    if config.get(FINAL_KEY, False):
        kept = _kept_state(context, config, cluster)
        model = choose_model(base, cluster, kept, data.validation, settings, measured=measured)
        metrics["keeps"] = KEEPS.index(model.name)
        if folder := str(context.node_config.get(FOLDER_KEY, "")):
            write_model(Path(folder), model, base, settings)
    return Message(content=RecordDict({METRICS_KEY: metrics}), reply_to=message)


def _order_of(context: Context) -> int:
    """Return the node's part of its batch seed; ids of simulated nodes differ from run to run."""
    return partition_of(context.node_config)[0] if is_simulated(context) else context.node_id


def _order_began(kept: DeviceState | None, server_round: int) -> tuple[int, ...]:
    """Return the round in which the order of a device's examples began; nothing for the first one.

    Who goes on in one order needs no other for each round. Who begins anew begins another one:
    after every loss of its state it would train on the same first examples again.
    """
    if kept is None:
        return (server_round,)
    return (kept.began,) if kept.began > 1 else ()


def _form_of(base: BaseModel, examples: tuple[Example, ...], settings: TrainingSettings) -> Form:
    """Return the form that most examples are trained in; a document is plain text."""
    form: Form = encoder_of(
        base.tokenizer, template=settings.template, max_length=settings.max_length
    ).form
    turns = sum(bool(example.messages) for example in examples)
    return form if 2 * turns >= len(examples) else "plain"


def _training_cost(
    base: BaseModel,
    examples: tuple[Example, ...],
    settings: TrainingSettings,
    device: Device,
    config: ConfigRecord,
) -> TrainingCost:
    """Return what training costs on the device; simulated ones share their machine's cost."""
    first, second = cast(list[int], config.get("probe-ranks", [4, 32]))
    settings = settings.changed(max_length=longest(base, examples, settings))
    machine = replace(device, slowdown=1.0)
    cost = cached_cost(
        CostKey.of(base, settings, device, probe_ranks=(first, second)),
        lambda: measure_training(base, examples, settings, machine, ranks=(first, second)),
        refresh=str(config.get("refresh", "")),
    )
    low, high = cost.step_seconds
    times = device.slowdown * settings.gradient_accumulation_steps
    return replace(cost, step_seconds=(low * times, high * times))
