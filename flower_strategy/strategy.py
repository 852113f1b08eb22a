"""FloeStrategy: federated LoRA with a rank per device and an adapter per cluster.

The data path of a run, top to bottom as the methods stand below::

    admit               query profile -> rank per device -> cluster per device (`admission`)
    configure_train     one message per device: its cluster's adapter at its rank
    aggregate_train     per cluster: exact mean of adapters of different ranks
    configure_evaluate  one message per device: its cluster's adapter at the export rank
    aggregate_evaluate  per cluster: held-out loss
    export              one PEFT adapter per cluster, manifest and history
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from floe_plugins.errors import ConfigError
from flower_strategy import reporting
from flower_strategy.adapter import AdapterState, initial_adapter
from flower_strategy.admission import Admission
from flower_strategy.aggregation import AdapterMean
from flower_strategy.base_model import adapted_shapes
from flower_strategy.clustering import ClusteringSettings
from flower_strategy.embedding import EmbeddingSettings
from flower_strategy.export import export_run
from flower_strategy.messages import Envelope
from flower_strategy.ranks import DeadlinePolicy, RankPolicy
from flower_strategy.replies import (
    Asked,
    ReplyError,
    ReplyRules,
    read_evaluate_reply,
    read_train_reply,
)
from flower_strategy.run_config import RunConfig
from flower_strategy.state import ClusterRound, RoundRecord, RunState
from flower_strategy.training import TrainingSettings

logger = logging.getLogger("flwr")


class FloeStrategy(Admission):
    """Federated LoRA fine-tuning for devices of different strength and different tasks.

    Every step is a method of its own and can be overridden. Clients answer three messages, for
    which `flower_strategy.client` has the functions: ``query.profile``, ``train``, ``evaluate``.

    Parameters
    ----------
    training : TrainingSettings
        What the devices are asked to do; it travels in every message.
    rank_policy : RankPolicy
        Gives each device its rank.
    clustering : ClusteringSettings, optional
        How devices are split.
    embedding : EmbeddingSettings, optional
        How devices embed their task.
    replies : ReplyRules, optional
        What a reply must satisfy, and how many a cluster needs.
    devices : Sequence[str], optional
        Classes of simulated devices, given out in turn. Real SuperNodes measure themselves.
    export_rank : int (default: 16)
        Rank of evaluated and exported adapters.
    min_nodes : int (default: 1)
        Nodes to wait for before the run begins.
    output : Path or str, optional
        Folder that the run is exported to; without one nothing is written.

    Attributes
    ----------
    state : RunState
        The run so far; there once `start` was called.
    """

    def __init__(
        self,
        *,
        training: TrainingSettings,
        rank_policy: RankPolicy,
        clustering: ClusteringSettings | None = None,
        embedding: EmbeddingSettings | None = None,
        replies: ReplyRules | None = None,
        devices: Sequence[str] = (),
        export_rank: int = 16,
        min_nodes: int = 1,
        output: Path | str | None = None,
    ) -> None:
        self.training = training
        self.envelope = Envelope(
            training=training,
            embedding=embedding or EmbeddingSettings(),
            devices=tuple(devices),
        )
        self.rank_policy = rank_policy
        self.clustering = clustering or ClusteringSettings()
        self.rules = replies or ReplyRules()
        self.export_rank = export_rank
        self.min_nodes = min_nodes
        self.output = None if output is None else Path(output).expanduser().absolute()
        self.state: RunState
        self._asked: dict[int, Asked] = {}
        self._record = RoundRecord(round=0)

    @classmethod
    def from_config(cls, config: RunConfig) -> FloeStrategy:
        """Return the strategy that a run configuration describes."""
        return cls(
            training=TrainingSettings.from_config(config),
            rank_policy=DeadlinePolicy(
                candidates=config.ranks, deadline=config.round_deadline or None
            ),
            clustering=ClusteringSettings(threshold=config.silhouette),
            embedding=EmbeddingSettings(
                texts=config.embedding_texts,
                clip=config.embedding_clip,
                noise=config.embedding_noise,
            ),
            replies=ReplyRules(min_replies=config.min_replies),
            devices=config.devices,
            export_rank=config.export_rank,
            min_nodes=config.min_nodes,
            output=config.output,
        )

    @property
    def bank_rank(self) -> int:
        """Rank of the clusters' banks: enough for every device and for the export."""
        return max(*self.rank_policy.candidates, self.export_rank)

    def summary(self) -> None:
        """Log the strategy's settings."""
        reporting.log_summary(self)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the federation.

        Parameters
        ----------
        grid : Grid
            Flower's grid.
        initial_arrays : ArrayRecord
            The initial adapter, as `make_initial_arrays` makes it.
        num_rounds : int (default: 3)
            Rounds of training.
        timeout : float (default: 3600)
            Seconds to wait for the replies of one stage; what has arrived then is used.
        train_config, evaluate_config : ConfigRecord, optional
            Further keys for the clients.
        evaluate_fn : Callable, optional
            Called with the round and all banks before the first round and after each.

        Returns
        -------
        Result
            Metrics by round; ``arrays`` holds all banks, keys ``<cluster>/<layer>.lora_A``.

        Raises
        ------
        NoDevicesError
            No device can take part.
        ConfigError
            The initial adapter has too small a rank.
        """
        logger.info("Starting %s strategy:", type(self).__name__)
        logger.info("\t├──> Number of rounds: %d", num_rounds)
        self.summary()
        logger.info("")
        self.state = RunState(initial=self._initial(initial_arrays))
        train_config = train_config or ConfigRecord()
        evaluate_config = evaluate_config or ConfigRecord()
        result = Result()
        for server_round in range(num_rounds + 1):
            started = time.monotonic()
            reporting.log_round(server_round, num_rounds)
            self._record = RoundRecord(round=server_round)
            self.state.history.append(self._record)
            self.admit(grid, timeout)
            arrays = self.state.to_arrays()
            if server_round:
                messages = self.configure_train(server_round, arrays, train_config, grid)
                replies = self.receive(grid, messages, timeout, stage="train")
                moved, metrics = self.aggregate_train(server_round, replies)
                arrays = moved or arrays
                result.train_metrics_clientapp[server_round] = metrics or MetricRecord()
            messages = self.configure_evaluate(server_round, arrays, evaluate_config, grid)
            replies = self.receive(grid, messages, timeout, stage="evaluate")
            evaluated = self.aggregate_evaluate(server_round, replies)
            result.evaluate_metrics_clientapp[server_round] = evaluated or MetricRecord()
            if evaluate_fn and (found := evaluate_fn(server_round, arrays)) is not None:
                result.evaluate_metrics_serverapp[server_round] = found
            result.arrays = arrays
            self._record.seconds = time.monotonic() - started
            reporting.log_losses(self._record, self.state)
        self.export()
        return result

    def _initial(self, arrays: ArrayRecord) -> AdapterState:
        adapter = AdapterState.from_arrays(arrays)
        if adapter.rank < self.bank_rank:
            raise ConfigError(
                f"The initial adapter has rank {adapter.rank}; candidates and export need "
                f"{self.bank_rank}."
            )
        return adapter.resized(self.bank_rank)

    # --------------------------------------------------------------- training

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return one message per device that has a rank: its cluster's adapter at that rank.

        `arrays` is not read: the banks are in ``state``.
        """
        state, online = self.state, set(grid.get_node_ids())
        wanted = {
            node: (state.cluster_of(node).name, decision.rank)
            for node, decision in state.decisions.items()
            if decision.rank is not None and node in online
        }
        adapters = {
            (cluster, rank): state.adapter(cluster, rank).with_scaling(self.training.scaling(rank))
            for cluster, rank in set(wanted.values())
        }
        self._asked = {node: Asked(key[0], adapters[key]) for node, key in wanted.items()}
        for node, asked in self._asked.items():
            self._device(node).rank = wanted[node][1]
            self._device(node).predicted_seconds = state.decisions[node].predicted_seconds
            self._device(node).bytes_down = asked.adapter.num_bytes
            self._record.clusters.setdefault(asked.cluster, ClusterRound()).asked += 1
        reporting.log_training(self._record)
        return self.envelope.adapter_messages(
            MessageType.TRAIN,
            {node: asked.adapter for node, asked in self._asked.items()},
            server_round=server_round,
            extra=config,
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold replies into their clusters' means as they arrive, then move the banks."""
        shapes = self.state.initial.shapes
        means: dict[str, AdapterMean] = {}
        for message in replies:
            node = message.metadata.src_node_id
            try:
                if node not in self._asked:
                    raise ReplyError("it was not asked to train in this round.")
                asked = self._asked.pop(node)
                reply = read_train_reply(message, asked, self.rules)
            except ReplyError as error:
                self._refuse(node, "train", error)
                continue
            mean = means.setdefault(asked.cluster, AdapterMean(shapes))
            mean.add(reply.adapter, weight=reply.num_examples)
            device = self._device(node)
            device.observed_seconds, device.train_loss = reply.seconds, reply.loss
            device.num_examples, device.bytes_up = reply.num_examples, reply.adapter.num_bytes
            reporting.log_reply(node, device, self.state.profiles[node].device)
        for name, outcome in self._record.clusters.items():
            self.move_bank(name, means.get(name), outcome)
        return self.state.to_arrays(), self._record.train_metrics()

    def move_bank(self, name: str, mean: AdapterMean | None, outcome: ClusterRound) -> None:
        """Replace a cluster's bank by the mean, if enough good replies came."""
        outcome.replies = mean.count if mean else 0
        needed = min(self.rules.min_replies, outcome.asked)
        if mean is None or mean.count < needed:
            logger.warning(
                "%s keeps its adapter: %d good replies, %d needed.", name, outcome.replies, needed
            )
            return
        aggregate = mean.result(self.bank_rank)
        self.state.banks[name] = aggregate.adapter
        outcome.discarded_energy = aggregate.discarded_energy
        outcome.moved = True

    # ------------------------------------------------------------- evaluation

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return one message per profiled device: its cluster's adapter at the export rank.

        So what is measured is what is exported, also on devices that train at another rank or
        not at all.
        """
        state, online = self.state, set(grid.get_node_ids())
        adapters = {
            cluster.name: state.adapter(cluster.name, self.export_rank)
            for cluster in state.clusters
        }
        return self.envelope.adapter_messages(
            MessageType.EVALUATE,
            {
                node: adapters[state.cluster_of(node).name]
                for node in state.profiles
                if node in online
            },
            server_round=server_round,
            extra=config,
        )

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the held-out loss per cluster, ``<cluster>/held-out-loss``, and over all."""
        for message in replies:
            node = message.metadata.src_node_id
            try:
                reply = read_evaluate_reply(message, self.rules)
            except ReplyError as error:
                self._refuse(node, "evaluate", error)
                continue
            device = self._device(node)
            device.held_out_loss, device.held_out_tokens = reply.loss, reply.num_tokens
        return self._record.evaluate_metrics()

    # ------------------------------------------------------------------ end

    def export(self) -> None:
        """Write adapters, manifest and history to the output folder, if there is one."""
        if self.output is None:
            return
        manifest = export_run(
            self.state,
            self.output,
            training=self.training,
            rank=self.export_rank,
            policy=self.rank_policy,
        )
        reporting.log_export(self.output, manifest)


def make_initial_arrays(strategy: FloeStrategy) -> ArrayRecord:
    """Return the adapter that a strategy's run begins with, for `FloeStrategy.start`."""
    training = strategy.training
    shapes = adapted_shapes(training.model)
    return initial_adapter(shapes, rank=strategy.bank_rank, seed=training.seed).to_arrays()
