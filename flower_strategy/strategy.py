"""FloeStrategy: federated LoRA with a rank per device and an adapter per cluster.

A round runs these steps, each a method that can be overridden::

    admit               profiles -> rank per device -> cluster per device   (`server.admission`)
    configure_train     one message per device: its cluster's adapter at its rank
    aggregate_train     per cluster: mean of the devices' own adapters     (`server.training_round`)
    configure_evaluate  one message per device: its cluster's adapter at the export rank
    aggregate_evaluate  per cluster: held-out loss
    correct_slowdowns   measured seconds -> ranks of the next round
    save                a checkpoint                                        (`server.checkpoint`)
    export              one PEFT adapter per cluster, manifest, history     (`server.export`)

Longer steps are functions of `flower_strategy.server` that take the strategy and its `Round`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from flower_strategy.adapters.mean import AdapterMean
from flower_strategy.adapters.modules import AdaptedModules
from flower_strategy.config import RunConfig, check_values
from flower_strategy.messages import Envelope
from flower_strategy.profile import DeviceProfile
from flower_strategy.ranks.cost import RankPolicy
from flower_strategy.ranks.policies import policy_from_config
from flower_strategy.schedule import asked_move
from flower_strategy.server import admission, log, round, training_messages, training_round
from flower_strategy.server.admission import NoDevicesError
from flower_strategy.server.checkpoint import (
    resume,
    save_checkpoint,
    set_aside_checkpoints,
    upload_store,
)
from flower_strategy.server.early_stop import all_stopped, conclude_evaluation
from flower_strategy.server.exchange import Patience
from flower_strategy.server.export import export_run
from flower_strategy.server.records import RoundRecord
from flower_strategy.server.result_folders import ExportError, ResultFolders
from flower_strategy.server.round import Round
from flower_strategy.server.sole_writer import sole_writer
from flower_strategy.server.state import RunState, initial_adapter_at
from flower_strategy.server.uploads import UploadStore
from flower_strategy.settings import (
    CheckpointSettings,
    ClusteringSettings,
    EmbeddingSettings,
    Participation,
    ReplyRules,
    TrainingSettings,
)

logger = logging.getLogger("flwr")


class FloeStrategy(Strategy):
    """Federated LoRA fine-tuning across devices of different capability and different tasks.

    Every step is a separate method and can be overridden. Clients answer three messages, for which
    `flower_strategy.client` has the functions: ``query.profile``, ``train``, ``evaluate``.

    Parameters
    ----------
    training : TrainingSettings
        How devices train; sent in every message.
    rank_policy : RankPolicy
        Assigns each device its rank.
    clustering : ClusteringSettings, optional
        How devices are clustered.
    embedding : EmbeddingSettings, optional
        How devices embed their task; by default, texts are as long as in training.
    participation : Participation, optional
        Which devices take part in a round, and how long the server waits for them.
    replies : ReplyRules, optional
        What a reply must satisfy, and how many a cluster needs.
    devices : Sequence[str], optional
        Classes of simulated devices, assigned in turn. Real SuperNodes measure themselves.
    export_rank : int (default: 16)
        Rank of evaluated and exported adapters; vLLM must accept it.
    output : Path or str, optional
        Folder for checkpoints and the run's result; without one, nothing is written.
    checkpoints : CheckpointSettings, optional
        How many to keep, and which one to resume from.

    Raises
    ------
    ConfigError
        vLLM does not accept the export rank.

    Attributes
    ----------
    state : RunState
        The run so far; set by `start`.
    results : ResultFolders
        The results in the output folder; set by `start` if there is one.
    round : Round
        The current round.
    uploads : UploadStore
        What devices last sent, on the disk.
    modules : AdaptedModules or None
        Which modules of the base model carry factors; set by `make_initial_arrays`.
    """

    asked_move = staticmethod(asked_move)

    def __init__(
        self,
        *,
        training: TrainingSettings,
        rank_policy: RankPolicy,
        clustering: ClusteringSettings | None = None,
        embedding: EmbeddingSettings | None = None,
        participation: Participation | None = None,
        replies: ReplyRules | None = None,
        devices: Sequence[str] = (),
        export_rank: int = 16,
        output: Path | str | None = None,
        checkpoints: CheckpointSettings | None = None,
    ) -> None:
        check_values({"export_rank": export_rank})
        self.training = training
        self.envelope = Envelope(
            training=training,
            embedding=embedding
            or EmbeddingSettings(max_length=training.max_length, template=training.template),
            devices=tuple(devices),
        )
        self.rank_policy = rank_policy
        self.clustering = clustering or ClusteringSettings()
        self.participation = participation or Participation()
        self.rules = replies or ReplyRules()
        self.export_rank = export_rank
        self.output = None if output is None else Path(output).expanduser().absolute()
        self.checkpoints = checkpoints or CheckpointSettings()
        self.round = Round(record=RoundRecord(round=0))
        self.modules: AdaptedModules | None = None
        self.uploads = UploadStore()

    @classmethod
    def from_config(cls, config: RunConfig) -> Self:
        """Return the strategy that a run configuration describes."""
        return cls(
            training=TrainingSettings.from_config(config),
            rank_policy=policy_from_config(config),
            clustering=ClusteringSettings.from_config(config),
            embedding=EmbeddingSettings.from_config(config),
            participation=Participation.from_config(config),
            replies=ReplyRules.from_config(config),
            devices=config.devices,
            export_rank=config.export_rank,
            output=config.output,
            checkpoints=CheckpointSettings.from_config(config),
        )

    def settings(self) -> dict[str, Any]:
        """Return the run's settings by name; a resumed run logs those that have changed."""
        parts = {
            "embedding": asdict(self.envelope.embedding),
            "clustering": asdict(self.clustering),
            "participation": self.participation.model_dump(),
            "replies": self.rules.model_dump(),
        }
        return {
            **self.training.model_dump(mode="json"),
            **{f"{part}.{name}": found[name] for part, found in parts.items() for name in found},
            "rank_policy": self.rank_policy.name,
            "ranks": list(self.rank_policy.candidates),
            "export_rank": self.export_rank,
        }

    def summary(self) -> None:
        """Log the strategy's settings."""
        log.log_summary(
            training=self.training,
            modules=self.modules,
            embedding=self.envelope.embedding,
            clustering=self.clustering,
            participation=self.participation,
            policy=self.rank_policy,
            rules=self.rules,
            checkpoints=self.checkpoints,
            export_rank=self.export_rank,
            output=self.output,
        )

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
            The initial adapter, from `make_initial_arrays`.
        num_rounds : int (default: 3)
            Rounds of training.
        timeout : float (default: 3600)
            Seconds to wait for the replies of one stage; those that arrive in time are used.
        train_config, evaluate_config : ConfigRecord, optional
            Additional configuration keys for the clients.
        evaluate_fn : Callable, optional
            Called with the round and all adapters before the first round and after each.

        Returns
        -------
        Result
            Metrics by round; ``arrays`` holds all adapters, keys ``<cluster>/<layer>.lora_A``.

        Raises
        ------
        NoDevicesError
            No device can take part. The results of earlier rounds are exported first; the last
            round's notes in ``history.json`` give the reason.
        ConfigError
            The initial adapter's rank is too small, the checkpoint to resume from does not fit this
            run, or the output folder cannot be written or is in use by another run.
        ExportError
            The result cannot be written; what the folder held before is unchanged.
        """
        logger.info("Starting %s strategy:", type(self).__name__)
        logger.info("\t├──> Number of rounds: %d", num_rounds)
        self.summary()
        logger.info("")
        with sole_writer(self.output):
            self.state, finished = self._begin(initial_arrays)
            if self.output is not None:
                self.results = ResultFolders(self.output, after=finished)
            evaluate_config = evaluate_config or ConfigRecord()
            result = Result()
            # The adapters are in the state; serialising them takes as long as sending them.
            none = ArrayRecord()
            for server_round in range(finished + 1, num_rounds + 1):
                if all_stopped(self):
                    break
                started = time.monotonic()
                log.log_round(server_round, num_rounds)
                if server_round == finished + 1:
                    record = RoundRecord(round=server_round)
                    self.round = Round(record=record, num_rounds=num_rounds)
                else:
                    self.round = self.round.following(server_round)
                try:
                    self.admit(grid, timeout)
                except NoDevicesError as error:
                    self._end_without_devices(error, seconds=time.monotonic() - started)
                    raise
                self.state.history.append(self.round.record)
                if server_round:
                    how = train_config or ConfigRecord()
                    messages = self.configure_train(server_round, none, how, grid)
                    replies = self.receive(grid, messages, timeout, stage="train")
                    _, metrics = self.aggregate_train(server_round, replies)
                    result.train_metrics_clientapp[server_round] = metrics or MetricRecord()
                messages = self.configure_evaluate(server_round, none, evaluate_config, grid)
                replies = self.receive(grid, messages, timeout, stage="evaluate")
                evaluated = self.aggregate_evaluate(server_round, replies)
                conclude_evaluation(self, self.round, grid, evaluate_config, timeout)
                result.evaluate_metrics_clientapp[server_round] = evaluated or MetricRecord()
                if evaluate_fn is not None:
                    found = evaluate_fn(server_round, self.state.to_arrays())
                    if found is not None:
                        result.evaluate_metrics_serverapp[server_round] = found
                self.round.record.seconds = time.monotonic() - started
                log.log_losses(self.round.record, self.state)
                self.prepare_next_round(server_round)
                self.save(server_round)
                if server_round < num_rounds and self.checkpoints.exports_after(server_round):
                    self.export_so_far()
            log.log_time(self.state)
            self.export()
            result.arrays = self.state.to_arrays(best=True)
            return result

    def _end_without_devices(self, error: NoDevicesError, *, seconds: float) -> None:
        """Export the results so far, with the reason why the run ends."""
        self.round.record.seconds = seconds
        self.round.record.notes.append(str(error))
        self.state.history.append(self.round.record)
        self.export_so_far()

    def _begin(self, arrays: ArrayRecord) -> tuple[RunState, int]:
        """Return the state to start from, and the number of the last finished round."""
        initial = initial_adapter_at(arrays, rank=self.server_rank)
        if self.checkpoints.resume is None:
            if self.output is not None:
                set_aside_checkpoints(self.output)
            self.uploads = upload_store(self.output, keep=self.checkpoints.keep)
            return RunState(initial=initial), -1
        now = self.settings()
        found = resume(
            self.checkpoints.resume,
            self.output,
            initial=initial,
            settings=now,
            by_adapter=self.clustering.by == "adapter",
        )
        if self.rank_policy.deadline is None:
            self.rank_policy.deadline = found.deadline
        self.uploads = upload_store(self.output, keep=self.checkpoints.keep, resumed=found)
        log.log_resumed(found.round, found.path, before=found.settings, now=now)
        return found.state, found.round

    @property
    def server_rank(self) -> int:
        """Rank of the clusters' adapters on the server: enough for every device and the export."""
        return max(*self.rank_policy.candidates, self.export_rank)

    def receive(
        self, grid: Grid, messages: Sequence[Message], timeout: float, *, stage: str
    ) -> Iterator[Message]:
        """Send messages and yield the replies as they arrive; record who did not reply."""
        return round.receive(self, self.round, grid, messages, timeout, stage=stage)

    def patience(self, grid: Grid, timeout: float, *, stage: str) -> Patience:
        """Return how long a stage waits for its replies."""
        return round.patience(self, grid, timeout, stage=stage)

    def able_nodes(self, grid: Grid) -> list[int]:
        """Return the nodes that are connected and have a rank."""
        return self.able_among(grid.get_node_ids())

    def able_among(self, nodes: Iterable[int]) -> list[int]:
        """Return the given nodes that have a rank."""
        among = set(nodes)
        return [node for node, d in self.state.decisions.items() if d.rank and node in among]

    def admit(self, grid: Grid, timeout: float) -> None:
        """Query the profiles that are due; give those devices a rank and a cluster."""
        admission.admit(self, self.round, grid, timeout)

    def wait_for_nodes(self, grid: Grid, timeout: float) -> None:
        """Wait until enough nodes are connected or the time is up."""
        admission.wait_for_nodes(self, self.round, grid, timeout)

    def query_profiles(self, grid: Grid, timeout: float) -> None:
        """Query the profiles that are due now, and take the valid ones into the run."""
        admission.query_profiles(self, self.round, grid, timeout)

    def new_nodes(self, online: Sequence[int]) -> list[int]:
        """Return the nodes whose first profile is due."""
        return admission.new_nodes(self, self.round, online)

    def nodes_to_measure_again(self, online: Sequence[int]) -> list[int]:
        """Return the nodes that have been left out long enough to be measured again."""
        return admission.nodes_to_measure_again(self, self.round, online)

    def time_to_recluster(self) -> bool:
        """Return whether this round clusters all devices again."""
        return admission.time_to_recluster(self, self.round)

    def configure_profile(
        self, nodes: Sequence[int], *, refresh: Sequence[int] = ()
    ) -> list[Message]:
        """Return one profile query per node; those in `refresh` repeat their measurements."""
        return admission.configure_profile(self, nodes, refresh=refresh)

    def aggregate_profile(self, replies: Iterable[Message]) -> dict[int, DeviceProfile]:
        """Return the valid profiles by node; refuse embeddings of another model."""
        return admission.aggregate_profile(self, self.round, replies)

    def take_profiles(
        self,
        profiles: dict[int, DeviceProfile],
        online: Sequence[int],
        *,
        measured: Sequence[int] = (),
        embeddings_anew: bool = False,
    ) -> bool:
        """Take valid profiles into the run; see `flower_strategy.server.admission`."""
        anew = embeddings_anew
        return admission.take_profiles(
            self, self.round, profiles, online, measured=measured, embeddings_anew=anew
        )

    def assign_ranks(self) -> None:
        """Let the policy give each device a rank or leave it out; log what changed."""
        admission.assign_ranks(self, self.round)

    def assign_clusters(self, nodes: Sequence[int]) -> None:
        """Cluster the first nodes; assign later ones to the nearest centroid."""
        admission.assign_clusters(self, nodes)

    def recluster(self) -> None:
        """Cluster all devices again, by embedding or by adapter as configured."""
        admission.recluster(self, self.round)

    def note_noisier(self, profiles: Iterable[DeviceProfile]) -> None:
        """Note devices whose embeddings carry more noise than requested."""
        admission.note_noisier(self, self.round, profiles)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return one message per training device; `arrays` is empty, adapters are in ``state``."""
        return training_messages.configure_train(self, self.round, server_round, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add replies to their clusters' means as they arrive, then move the adapters."""
        return None, training_round.aggregate_train(self, self.round, replies)

    def new_mean(self) -> AdapterMean:
        """Return an empty mean for the replies of one cluster."""
        return training_round.new_mean(self)

    def move_adapters(self, means: dict[str, AdapterMean]) -> None:
        """Move the adapters of clusters with enough valid replies; the others stay as they are."""
        training_round.move_adapters(self, self.round, means)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return one message per evaluating device; `arrays` is empty, as in training."""
        return training_messages.configure_evaluate(self, self.round, server_round, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the held-out loss per cluster (``<cluster>/held-out-loss``) and over all."""
        return training_round.aggregate_evaluate(self, self.round, replies)

    def most_tokens(self, node: int) -> int:
        """Return the most tokens that a device's held-out loss is weighted with."""
        return training_round.most_tokens(self, node)

    def correct_slowdowns(self) -> None:
        """Update the slowdowns from the round's timings, then assign the next round's ranks."""
        admission.correct_slowdowns(self, self.round)

    def prepare_next_round(self, server_round: int) -> None:
        """Correct the slowdowns, and split the clusters once there are adapters to split by."""
        admission.prepare_next_round(self, self.round)

    def save(self, server_round: int) -> None:
        """Write a checkpoint to the output folder, if there is one and checkpoints are kept."""
        if self.output is None or not self.checkpoints.keep:
            return
        try:
            save_checkpoint(
                self.state,
                self.output,
                server_round=server_round,
                uploads=self.uploads,
                deadline=self.rank_policy.deadline,
                settings=self.settings(),
                keep=self.checkpoints.keep,
            )
        except OSError as error:
            # The round is still in memory: the run continues, and the next round tries again.
            logger.error("Round %d has no checkpoint in %s: %s.", server_round, self.output, error)
            self.round.record.notes.append(f"checkpoint not written: {error}")

    def export_so_far(self) -> None:
        """Export what the run has made until now; note where that cannot be written."""
        try:
            self.export()
        except ExportError as error:
            # The adapters are in memory, and a later round tries again.
            logger.error("%s", error)
            self.round.record.notes.append(str(error))

    def export(self) -> None:
        """Write adapters, manifest and history to the output folder, if there is one."""
        if self.output is None:
            return
        with self.results.new(self.state.history[-1].round) as folder:
            manifest = export_run(
                self.state,
                folder,
                training=self.training,
                modules=self.modules,
                rank=self.export_rank,
                policy=self.rank_policy,
                embedding=self.envelope.embedding,
                clustering=self.clustering,
            )
        log.log_export(self.output, manifest)
