"""What travels: names of records, the profile query, adapters with the settings to use them."""

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
    """The settings that go with every message of a run.

    Attributes
    ----------
    training : TrainingSettings
        What devices are asked to do.
    embedding : EmbeddingSettings
        How devices embed their task.
    devices : tuple[str, ...] (default: ())
        Classes of simulated devices, given out in turn.
    """

    training: TrainingSettings
    embedding: EmbeddingSettings
    devices: tuple[str, ...] = ()

    def profile_query(
        self, nodes: Sequence[int], probe_ranks: tuple[int, int], *, refresh: bool = False
    ) -> list[Message]:
        """Return the profile query, one message per node.

        Parameters
        ----------
        nodes : Sequence[int]
            The nodes to ask.
        probe_ranks : tuple[int, int]
            The ranks to be timed.
        refresh : bool (default: False)
            Whether a device measures itself even where it has done so for an earlier query.
        """
        config = self.training.to_record()
        config.update(self.embedding.to_record())
        config["devices"] = list(self.devices)
        config["probe-ranks"] = list(probe_ranks)
        # One name for all: nodes that one machine stands for share a measurement.
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
        """Return one message per node: its adapter and the settings to use it with.

        Nodes that get one and the same adapter object share its arrays, so Flower stores them
        once. It is a list, since the deployment engine's grid iterates twice.

        Parameters
        ----------
        message_type : str
            ``MessageType.TRAIN`` or ``MessageType.EVALUATE``.
        adapters : Mapping[int, AdapterState]
            Node -> what it is sent.
        server_round : int
            The round.
        extra : ConfigRecord
            Further keys; they win over the training settings of the same name.
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
