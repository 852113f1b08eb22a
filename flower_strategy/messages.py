"""The messages to devices: record names, the profile query, adapters with their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.settings import EmbeddingSettings, TrainingSettings

ARRAYS_KEY = "arrays"
CONFIG_KEY = "config"
METRICS_KEY = "metrics"
"""Names of the records in every message and reply."""

ROUND_KEY = "server-round"
ROUNDS_KEY = "num-rounds"
"""Where a message's configuration has the round, and one to train also the rounds of the run."""

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
    ) -> list[Message]:
        """Return one message per node: its adapter and the settings that go with it.

        Nodes that get the same adapter object share its arrays, so Flower stores them once. The
        result is a list because the deployment engine's grid iterates twice.

        Parameters
        ----------
        message_type : str
            ``MessageType.TRAIN`` or ``MessageType.EVALUATE``.
        adapters : Mapping[int, AdapterState]
            Node -> the adapter to send.
        server_round : int
            The round.
        extra : ConfigRecord
            Additional keys; they override training settings of the same name.
        """
        contents: dict[int, RecordDict] = {}
        messages = []
        for node, adapter in adapters.items():
            if id(adapter) not in contents:
                config = self.training.to_record()
                config.update(extra)
                config[ROUND_KEY] = server_round
                config["scaling"] = adapter.scaling
                config["devices"] = list(self.devices)
                contents[id(adapter)] = RecordDict(
                    {ARRAYS_KEY: adapter.to_arrays(), CONFIG_KEY: config}
                )
            messages.append(
                Message(content=contents[id(adapter)], message_type=message_type, dst_node_id=node)
            )
        return messages
