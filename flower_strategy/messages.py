"""The messages to devices: record names, the profile query, adapters with their settings."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import AdapterError, AdapterState, initial_adapter
from flower_strategy.adapters.stacking import is_zero
from flower_strategy.settings import EmbeddingSettings, TrainingSettings

ARRAYS_KEY = "arrays"
CONFIG_KEY = "config"
METRICS_KEY = "metrics"
"""Names of the records in every message and reply."""

ROUND_KEY = "server-round"
ROUNDS_KEY = "num-rounds"
"""Where a message's configuration has the round, and one to train also the rounds of the run."""

RUN_KEY = "run"
BEGAN_KEY = "began"
COUNTED_KEY = "counted"
STORED_KEY = "stored"
TRAINING_SECONDS_KEY = "training-seconds"
DEADLINE_KEY = "deadline"
RANK_KEY = "rank"
"""Where a message to train has the run's name, the round in which the device began its own
adapter as far as the server knows (0 if it does not), the round whose upload of the device is in
the adapter that comes (0 for none), the round of the upload that the server has stored, which may
be in the next one (0 for none), the seconds that training may take (0 if they are not limited), and
the rank that the device trains at. A reply names the round in which the device began."""

FINAL_KEY = "final"
"""Whether a message to evaluate is a device's last one: it then chooses the model that it keeps."""

KEEPS = ("own", "cluster", "alone")
"""What a device can keep: the cluster's adapter with its own part, the cluster's, or its own
adapter alone. Its reply has the place in this list as ``keeps``."""

_LAYERS, _ROWS, _COLUMNS = "layers", "rows", "columns"

PROFILE_QUERY = f"{MessageType.QUERY}.profile"


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """The settings sent with every message of a run.

    Attributes
    ----------
    training : TrainingSettings
        How devices train.
    embedding : EmbeddingSettings
        How devices embed their task.
    devices : tuple[str, ...] (default: ())
        Classes of simulated devices, assigned in turn.
    """

    training: TrainingSettings
    embedding: EmbeddingSettings
    devices: tuple[str, ...] = ()

    def profile_query(
        self, nodes: Sequence[int], probe_ranks: tuple[int, int], *, refresh: bool = False
    ) -> list[Message]:
        """Return one profile query per node.

        Parameters
        ----------
        nodes : Sequence[int]
            The nodes to query.
        probe_ranks : tuple[int, int]
            The ranks to time.
        refresh : bool (default: False)
            Whether devices repeat measurements that they made for an earlier query.
        """
        config = self.training.to_record()
        config.update(self.embedding.to_record())
        config["devices"] = list(self.devices)
        config["probe-ranks"] = list(probe_ranks)
        # One id for all: nodes that one machine simulates share a measurement.
        config["refresh"] = uuid4().hex if refresh else ""
        content = RecordDict({CONFIG_KEY: config})
        return [
            Message(content=content, message_type=PROFILE_QUERY, dst_node_id=node) for node in nodes
        ]

    def adapter_messages(
        self,
        message_type: str,
        adapters: Mapping[int, AdapterState],
        *,
        server_round: int,
        extra: ConfigRecord,
        own: Mapping[int, ConfigRecord] | None = None,
        exact: Collection[int] = (),
    ) -> list[Message]:
        """Return one message per node: its adapter and the settings that go with it.

        Nodes that get the same adapter object share its arrays, so Flower stores them once. The
        result is a list because the deployment engine's grid iterates twice. `received_adapter`
        reads the adapter on the device.

        Parameters
        ----------
        message_type : str
            ``MessageType.TRAIN`` or ``MessageType.EVALUATE``.
        adapters : Mapping[int, AdapterState]
            Node -> the adapter to send. One that changes nothing is described by its layers alone:
            its ``a`` follows from the seed.
        server_round : int
            The round.
        extra : ConfigRecord
            Additional keys; they override training settings of the same name.
        own : Mapping[int, ConfigRecord], optional
            Node -> keys of its own; they override all others.
        exact : Collection[int], optional
            Nodes that get float32: what they reply with has all of the rounding in it, and none of
            it would be made good later.
        """
        records: dict[tuple[int, bool], tuple[ArrayRecord, ConfigRecord]] = {}
        contents: dict[Any, RecordDict] = {}
        messages = []
        for node, adapter in adapters.items():
            key = id(adapter), node in exact
            if key not in records:
                config = self.training.to_record()
                config.update(extra)
                config[ROUND_KEY] = server_round
                config["scaling"] = adapter.scaling
                config["devices"] = list(self.devices)
                arrays = ArrayRecord()
                if is_zero(adapter):
                    config.update(_described(adapter))
                else:
                    arrays = adapter.to_arrays() if key[1] else int8.encode(adapter)
                records[key] = arrays, config
            arrays, config = records[key]
            added = {} if own is None else dict(own[node])
            # Nodes with equal keys share their content too.
            whole = key, tuple(added.items())
            if whole not in contents:
                contents[whole] = RecordDict(
                    {ARRAYS_KEY: arrays, CONFIG_KEY: ConfigRecord({**config, **added})}
                )
            content = contents[whole]
            messages.append(Message(content=content, message_type=message_type, dst_node_id=node))
        return messages


def _described(adapter: AdapterState) -> ConfigRecord:
    """Return what a device needs to make an initial adapter."""
    shapes = adapter.shapes
    return ConfigRecord(
        {
            _LAYERS: list(shapes),
            _ROWS: [rows for rows, _ in shapes.values()],
            _COLUMNS: [columns for _, columns in shapes.values()],
            RANK_KEY: adapter.rank,
        }
    )


def received_adapter(message: Message) -> AdapterState:
    """Return the adapter of a message to train or to evaluate.

    Raises
    ------
    AdapterError
        The message holds none.
    """
    config = message.content.config_records[CONFIG_KEY]
    scaling = float(cast(float, config["scaling"]))
    arrays = message.content.array_records[ARRAYS_KEY]
    if arrays:
        return read_adapter(arrays, scaling=scaling)
    if _LAYERS not in config:
        raise AdapterError("The message has neither an adapter nor the layers of an initial one.")
    names = cast(list[str], config[_LAYERS])
    sizes = zip(cast(list[int], config[_ROWS]), cast(list[int], config[_COLUMNS]), strict=True)
    initial = initial_adapter(
        dict(zip(names, sizes, strict=True)),
        rank=cast(int, config[RANK_KEY]),
        seed=cast(int, config["seed"]),
    )
    return initial.with_scaling(scaling)


def message_bytes(message: Message) -> int:
    """Return the bytes of the arrays in a message."""
    return sum(
        math.prod(array.shape) * np.dtype(array.dtype).itemsize
        for arrays in message.content.array_records.values()
        for array in arrays.values()
    )


def read_adapter(arrays: ArrayRecord, *, scaling: float) -> AdapterState:
    """Return an adapter that came in eight bits, or as floats.

    Raises
    ------
    AdapterError
        The arrays form no adapter.
    """
    if int8.SCALES_KEY in arrays:
        return int8.decode(arrays, scaling=scaling)
    return AdapterState.from_arrays(arrays, scaling=scaling)
