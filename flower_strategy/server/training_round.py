"""The second stage of a round: every cluster's devices train, and its adapter moves."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid

from flower_strategy.adapters.adapter import AdapterError, FloatArray
from flower_strategy.adapters.mean import AdapterMean, share_globally, with_momentum
from flower_strategy.clusters import sketch_adapter
from flower_strategy.device.training import TrainingSettings
from flower_strategy.server import log
from flower_strategy.server.admission import Admission
from flower_strategy.server.records import ClusterRound
from flower_strategy.server.replies import Asked, ReplyError, TrainReply, read_train_reply
from flower_strategy.server.update_norms import LengthJudge, asked_length, update_norm

logger = logging.getLogger("flwr")


@dataclass(frozen=True, eq=False)
class _Judged:
    """A good reply that has been folded into a mean, without its adapter."""

    node: int
    cluster: str
    norm: float
    times: float
    seconds: float
    loss: float
    num_examples: int
    bytes_up: int
    sketch: FloatArray | None


@dataclass(eq=False)
class _Folded:
    """What a round's replies are folded into.

    ``odd`` takes those that are absurdly long: whether they count is known at the round's end.
    """

    judge: LengthJudge
    means: dict[str, AdapterMean] = field(default_factory=dict)
    odd_means: dict[str, AdapterMean] = field(default_factory=dict)
    odd: list[_Judged] = field(default_factory=list)
    shortened: list[_Judged] = field(default_factory=list)
    count: int = 0


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
        # A caller's own keys win in the messages, so they do here.
        sent = self.training.to_record()
        sent.update(config)
        training = TrainingSettings.from_record(sent)
        lengths = {
            key: asked_length(
                adapter, local_steps=training.local_steps, learning_rate=training.learning_rate
            )
            for key, adapter in adapters.items()
        }
        self._asked = {
            node: Asked(key[0], adapters[key], state.profiles[node].num_examples, lengths[key])
            for node, key in wanted.items()
        }
        pace = state.pace()
        for node, asked in self._asked.items():
            device = self._device(node)
            device.rank, device.pace = wanted[node][1], pace.get(node, 1.0)
            device.predicted_seconds = state.decisions[node].predicted_seconds
            device.bytes_down = asked.adapter.num_bytes
            self._record.clusters.setdefault(asked.cluster, ClusterRound()).asked += 1
        log.log_training(self._record)
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

        Every reply is judged by itself and forgotten, so the result does not depend on the order
        of replies (but for float32's rounding), nor memory on their number; see
        `flower_strategy.server.update_norms`.
        """
        folded = _Folded(LengthJudge(self.rules.norm_limit))
        total = len(self._asked)
        for message in replies:
            node = message.metadata.src_node_id
            try:
                if node not in self._asked:
                    raise ReplyError("it was not asked to train in this round.")
                asked = self._asked.pop(node)
                reply = read_train_reply(message, asked, self.rules)
                self._fold(folded, node, asked, reply, total)
            except (ReplyError, AdapterError) as error:
                self._refuse(node, "train", ReplyError(str(error)))
        self._settle_odd(folded, total)
        self._note_shortened(folded.shortened)
        self.move_banks(folded.means)
        return None, self._record.conclude_training()

    def _fold(
        self, folded: _Folded, node: int, asked: Asked, reply: TrainReply, total: int
    ) -> None:
        """Fold one reply into its cluster's mean, or into that of the absurdly long ones."""
        norm = update_norm(asked.adapter, reply.adapter)
        verdict = folded.judge.judge(norm, asked.length)
        means = folded.odd_means if verdict.odd else folded.means
        if asked.cluster not in means:
            means[asked.cluster] = self.new_mean()
        means[asked.cluster].add(
            reply.adapter, weight=reply.num_examples, sent=asked.adapter, kept=verdict.kept
        )
        by_adapter = self.clustering.by == "adapter" and not self.state.split_by_adapter
        judged = _Judged(
            node=node,
            cluster=asked.cluster,
            norm=norm,
            times=norm / asked.length if asked.length else math.inf,
            seconds=reply.seconds,
            loss=reply.loss,
            num_examples=reply.num_examples,
            bytes_up=reply.adapter.num_bytes,
            sketch=sketch_adapter(reply.adapter, rank=self.rank_policy.candidates[0])
            if by_adapter and node not in self.state.sketches
            else None,
        )
        if verdict.odd:
            folded.odd.append(judged)
            return
        if verdict.kept < 1:
            folded.shortened.append(judged)
        self._accept(folded, judged, total)

    def _accept(self, folded: _Folded, judged: _Judged, total: int) -> None:
        """Record a reply that counts."""
        folded.count += 1
        if judged.sketch is not None:
            self.state.sketches[judged.node] = judged.sketch
        device = self._device(judged.node)
        device.observed_seconds, device.train_loss = judged.seconds, judged.loss
        device.num_examples, device.bytes_up = judged.num_examples, judged.bytes_up
        name = self.state.profiles[judged.node].device
        log.log_reply(judged.node, device, name, done=folded.count, total=total)

    def _settle_odd(self, folded: _Folded, total: int) -> None:
        """Refuse the absurdly long updates, or let them count, shortened as they are."""
        if folded.judge.refuses_odd:
            for judged in folded.odd:
                self._refuse(judged.node, "train", ReplyError(self._too_long(judged)))
            return
        for cluster, mean in folded.odd_means.items():
            if cluster in folded.means:
                folded.means[cluster].merge(mean)
            else:
                folded.means[cluster] = mean
        for judged in folded.odd:
            folded.shortened.append(judged)
            self._accept(folded, judged, total)

    def _note_shortened(self, shortened: list[_Judged]) -> None:
        """Say that updates were shortened, and by how much the longest was."""
        if not shortened:
            return
        longest = max(shortened, key=lambda judged: judged.times)
        self._note(
            f"{len(shortened)} updates were shortened to norm-limit, that of node {longest.node} "
            f"most: {self._too_long(longest)}"
        )

    def _too_long(self, judged: _Judged) -> str:
        return (
            f"its update has norm {judged.norm:.3g}, {judged.times:.3g} times what the local-steps "
            f"and learning-rate asked for make; norm-limit is {self.rules.norm_limit:g}."
        )

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
