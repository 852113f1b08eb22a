"""The second stage of a round: every cluster's devices train, and its adapter moves."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid

from flower_strategy import reporting
from flower_strategy.adapter import AdapterError
from flower_strategy.adapter_sketch import sketch_adapter
from flower_strategy.admission import Admission
from flower_strategy.aggregation import AdapterMean
from flower_strategy.banks import share_globally, with_momentum
from flower_strategy.records import ClusterRound
from flower_strategy.replies import Asked, ReplyError, TrainReply, read_train_reply
from flower_strategy.update_norms import NormJudge, update_norm

logger = logging.getLogger("flwr")

_MOST_WAITING = 8


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A good reply whose length is not judged yet."""

    node: int
    asked: Asked
    reply: TrainReply
    norm: float


class TrainingStage(Admission):
    """The part of `FloeStrategy` that trains. Every step can be overridden."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return one message per device that trains: its cluster's adapter at its rank.

        `arrays` is empty: the banks are in ``state``.
        """
        state = self.state
        chosen = state.sample(
            self.able_nodes(grid),
            self.participation.fraction_train,
            (self.training.seed, server_round),
            least=self.rules.min_replies,
        )
        wanted = {
            node: (state.cluster_of(node).name, rank)
            for node in chosen
            if (rank := state.decisions[node].rank) is not None
        }
        adapters = {
            (cluster, rank): state.adapter(cluster, rank).with_scaling(self.training.scaling(rank))
            for cluster, rank in set(wanted.values())
        }
        self._asked = {node: Asked(key[0], adapters[key]) for node, key in wanted.items()}
        pace = state.pace()
        for node, asked in self._asked.items():
            device = self._device(node)
            device.rank, device.pace = wanted[node][1], pace.get(node, 1.0)
            device.predicted_seconds = state.decisions[node].predicted_seconds
            device.bytes_down = asked.adapter.num_bytes
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
        """Fold replies into their clusters' means as they arrive, then move the banks.

        The first replies of a run wait until there are enough to judge their length by; from
        then on each is folded in and forgotten, so memory does not grow with the devices.
        """
        means: dict[str, AdapterMean] = {}
        judge = NormJudge(limit=self.rules.norm_limit, last_round=self.state.norms)
        accepted: list[float] = []
        waiting: list[_Waiting] = []
        total = len(self._asked)
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
            waiting.append(_Waiting(node, asked, reply, update_norm(asked.adapter, reply.adapter)))
            judge.note(waiting[-1].norm)
            if judge.ready or len(waiting) >= _MOST_WAITING:
                self._fold(waiting, judge, means, accepted, total)
        self._fold(waiting, judge, means, accepted, total)
        self.state.norms = accepted or self.state.norms
        self.move_banks(means)
        return None, self._record.conclude_training()

    def _fold(
        self,
        waiting: list[_Waiting],
        judge: NormJudge,
        means: dict[str, AdapterMean],
        accepted: list[float],
        total: int,
    ) -> None:
        """Fold in the replies that wait, and forget them."""
        while waiting:
            item = waiting.pop(0)
            if complaint := judge.complaint(item.norm):
                self._refuse(item.node, "train", ReplyError(complaint))
                continue
            reply, cluster = item.reply, item.asked.cluster
            if cluster not in means:
                means[cluster] = self.new_mean()
            try:
                means[cluster].add(reply.adapter, weight=reply.num_examples)
            except AdapterError as error:
                self._refuse(item.node, "train", ReplyError(str(error)))
                continue
            accepted.append(item.norm)
            by_adapter = self.clustering.by == "adapter" and not self.state.split_by_adapter
            if by_adapter and item.node not in self.state.sketches:
                self.state.sketches[item.node] = sketch_adapter(
                    reply.adapter, rank=self.rank_policy.candidates[0]
                )
            device = self._device(item.node)
            device.observed_seconds, device.train_loss = reply.seconds, reply.loss
            device.num_examples, device.bytes_up = reply.num_examples, reply.adapter.num_bytes
            name = self.state.profiles[item.node].device
            reporting.log_reply(item.node, device, name, done=len(accepted), total=total)

    def new_mean(self) -> AdapterMean:
        """Return an empty mean; what replies of one cluster are folded into."""
        return AdapterMean(
            self.state.initial.shapes,
            weighting=self.aggregation.weighting,
            ranks=self.rank_policy.candidates,
        )

    def move_banks(self, means: dict[str, AdapterMean]) -> None:
        """Move every cluster's bank that has enough good replies; the others keep theirs."""
        state, settings = self.state, self.aggregation
        moved = {}
        # Those that are left out are never asked, so nobody can wait for their replies.
        members = {
            cluster.name: sum(state.decisions[node].rank is not None for node in cluster.members)
            for cluster in state.clusters
        }
        for name, outcome in self._record.clusters.items():
            mean = means.get(name)
            outcome.replies = mean.count if mean else 0
            needed = min(self.rules.min_replies, max(1, members[name]))
            if mean is None or mean.count < needed:
                self._note(
                    f"{name} keeps its adapter: {outcome.replies} good replies of "
                    f"{outcome.asked}, {needed} needed"
                )
                continue
            try:
                aggregate = mean.result(self.bank_rank)
            except (AdapterError, np.linalg.LinAlgError) as error:
                self._note(f"{name} keeps its adapter: its replies have no mean ({error})")
                continue
            outcome.discarded_energy = aggregate.discarded_energy
            outcome.discarded_by_layer = aggregate.discarded_by_layer
            outcome.moved = True
            moved[name] = aggregate.adapter
        moved = share_globally(
            moved,
            {name: means[name].total_weight for name in moved},
            share=settings.global_share,
            rank=self.bank_rank,
        )
        for name, mean_adapter in moved.items():
            if not settings.momentum:
                state.banks[name] = mean_adapter
                continue
            step = with_momentum(
                state.banks[name],
                mean_adapter,
                state.velocities.get(name),
                momentum=settings.momentum,
                rank=self.bank_rank,
            )
            state.banks[name], state.velocities[name] = step.bank, step.velocity
