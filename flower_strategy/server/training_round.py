"""The second stage of a round: devices train, and their clusters' adapters move."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid

from flower_strategy.adapters.adapter import AdapterError, Float32Array
from flower_strategy.adapters.mean import AdapterMean, share_globally, with_momentum
from flower_strategy.clusters import sketch_adapter
from flower_strategy.messages import ROUNDS_KEY
from flower_strategy.server import log
from flower_strategy.server.records import ClusterRound
from flower_strategy.server.replies import (
    ReplyError,
    Sent,
    TrainReply,
    read_evaluate_reply,
    read_train_reply,
)
from flower_strategy.server.round import Round, Steps
from flower_strategy.server.update_norms import LengthJudge, asked_length, update_norm
from flower_strategy.settings import TrainingSettings

logger = logging.getLogger("flwr")

_FARTHEST = 4
"""By its examples, a device may move at most so many times as far as the median one of its round.
It names them itself, and the length that its update may have must not be its own to set."""


@dataclass(frozen=True, eq=False)
class _Judged:
    """A valid reply that has been added to a mean, without its adapter."""

    node: int
    cluster: str
    norm: float
    times: float
    seconds: float
    loss: float
    num_examples: int
    bytes_up: int
    sketch: Float32Array | None


@dataclass(eq=False)
class _Folded:
    """The means that a round's replies are added to.

    ``odd`` holds absurdly long updates; whether they count is decided at the end of the round.
    """

    judge: LengthJudge
    means: dict[str, AdapterMean] = field(default_factory=dict)
    odd_means: dict[str, AdapterMean] = field(default_factory=dict)
    odd: list[_Judged] = field(default_factory=list)
    shortened: list[_Judged] = field(default_factory=list)
    count: int = 0


def configure_train(
    steps: Steps,
    round: Round,
    server_round: int,
    config: ConfigRecord,
    grid: Grid,
) -> list[Message]:
    """Return one message per training device: its cluster's adapter at its rank."""
    state = steps.state
    chosen = state.sample(
        steps.able_nodes(grid),
        steps.participation.fraction_train,
        (steps.training.seed, server_round),
        least=steps.rules.min_replies,
    )
    wanted = {
        node: (state.cluster_of(node).name, rank)
        for node in chosen
        if (rank := state.decisions[node].rank) is not None
    }
    adapters = {
        (cluster, rank): state.adapter(cluster, rank).with_scaling(steps.training.scaling(rank))
        for cluster, rank in set(wanted.values())
    }
    # The caller's keys take precedence in the messages, so they do here.
    record = steps.training.to_record()
    record.update(config)
    training = TrainingSettings.from_record(record)
    # A length grows with the sum of the learning rates, which with epochs is a device's own.
    lengths = {key: asked_length(adapter, move=1.0) for key, adapter in adapters.items()}
    round.sent = {}
    counts = {node: state.profiles[node].num_examples for node in wanted}
    # With epochs a device that says it has more examples may move further: not without end.
    most = _FARTHEST * int(np.median([*counts.values()] or [0]))
    for node, key in wanted.items():
        examples = counts[node]
        counted = min(examples, max(most, 1))
        move = steps.asked_move(
            training,
            num_examples=counted,
            server_round=server_round,
            num_rounds=round.num_rounds,
        )
        highest = training.steps(counted) * training.learning_rate
        length = lengths[key]
        round.sent[node] = Sent(key[0], adapters[key], examples, move * length, highest * length)
    pace = state.slowdown_factors()
    for node, sent in round.sent.items():
        device = round.device(node, steps.state)
        device.rank, device.pace = wanted[node][1], pace.get(node, 1.0)
        device.predicted_seconds = state.decisions[node].predicted_seconds
        device.bytes_down = sent.adapter.num_bytes
        round.record.clusters.setdefault(sent.cluster, ClusterRound()).asked += 1
    log.log_training(round.record)
    return steps.envelope.adapter_messages(
        MessageType.TRAIN,
        {node: sent.adapter for node, sent in round.sent.items()},
        server_round=server_round,
        extra=ConfigRecord({**config, ROUNDS_KEY: round.num_rounds}),
    )


def aggregate_train(steps: Steps, round: Round, replies: Iterable[Message]) -> MetricRecord:
    """Add replies to their clusters' means as they arrive, then move the adapters.

    Every reply is judged by itself and then dropped. The result does not depend on the order of
    the replies (except for float32 rounding), and memory does not grow with their number; see
    `flower_strategy.server.update_norms`.
    """
    folded = _Folded(LengthJudge(steps.rules.norm_limit))
    total = len(round.sent)
    for message in replies:
        node = message.metadata.src_node_id
        try:
            if node not in round.sent:
                raise ReplyError("it was not asked to train in this round.")
            sent = round.sent.pop(node)
            reply = read_train_reply(message, sent, steps.rules)
            _fold(steps, round, folded, node, sent, reply, total)
        except (ReplyError, AdapterError) as error:
            round.refuse(node, "train", ReplyError(str(error)))
    _judge_odd(steps, round, folded, total)
    _note_shortened(steps, round, folded.shortened)
    steps.move_adapters(folded.means)
    return round.record.conclude_training()


def _fold(
    steps: Steps,
    round: Round,
    folded: _Folded,
    node: int,
    sent: Sent,
    reply: TrainReply,
    total: int,
) -> None:
    """Add one reply to its cluster's mean, or to that of the absurdly long updates."""
    norm = update_norm(sent.adapter, reply.adapter)
    verdict = folded.judge.judge(norm, sent.length, highest=sent.highest)
    means = folded.odd_means if verdict.odd else folded.means
    if sent.cluster not in means:
        means[sent.cluster] = steps.new_mean()
    means[sent.cluster].add(
        reply.adapter, weight=reply.num_examples, sent=sent.adapter, kept=verdict.kept
    )
    by_adapter = steps.clustering.by == "adapter" and not steps.state.split_by_adapter
    judged = _Judged(
        node=node,
        cluster=sent.cluster,
        norm=norm,
        times=norm / sent.length if sent.length else math.inf,
        seconds=reply.seconds,
        loss=reply.loss,
        num_examples=reply.num_examples,
        bytes_up=reply.adapter.num_bytes,
        sketch=sketch_adapter(reply.adapter, rank=steps.rank_policy.candidates[0])
        if by_adapter and not steps.state.has_sketch(node)
        else None,
    )
    if verdict.odd:
        folded.odd.append(judged)
        return
    if verdict.kept < 1:
        folded.shortened.append(judged)
    _accept(steps, round, folded, judged, total)


def _accept(steps: Steps, round: Round, folded: _Folded, judged: _Judged, total: int) -> None:
    """Record a reply that counts."""
    folded.count += 1
    if judged.sketch is not None:
        steps.state.sketches[judged.node] = judged.sketch
    device = round.device(judged.node, steps.state)
    device.observed_seconds, device.train_loss = judged.seconds, judged.loss
    device.num_examples, device.bytes_up = judged.num_examples, judged.bytes_up
    name = steps.state.profiles[judged.node].device
    log.log_reply(judged.node, device, name, done=folded.count, total=total)


def _judge_odd(steps: Steps, round: Round, folded: _Folded, total: int) -> None:
    """Refuse the absurdly long updates, or count them, shortened."""
    if folded.judge.refuses_odd:
        for judged in folded.odd:
            round.refuse(judged.node, "train", ReplyError(_too_long(steps, judged)))
        return
    for cluster, mean in folded.odd_means.items():
        if cluster in folded.means:
            folded.means[cluster].merge(mean)
        else:
            folded.means[cluster] = mean
    for judged in folded.odd:
        folded.shortened.append(judged)
        _accept(steps, round, folded, judged, total)


def _note_shortened(steps: Steps, round: Round, shortened: list[_Judged]) -> None:
    """Log that updates were shortened, and by how much the longest one was."""
    if not shortened:
        return
    longest = max(shortened, key=lambda judged: judged.times)
    round.note(
        f"{len(shortened)} updates were shortened to norm-limit, that of node {longest.node} "
        f"most: {_too_long(steps, longest)}"
    )


def _too_long(steps: Steps, judged: _Judged) -> str:
    if math.isinf(judged.times):
        return f"its update has norm {judged.norm:.3g}, and all learning rates of this round are 0."
    return (
        f"its update has norm {judged.norm:.3g}, {judged.times:.3g} times what the steps and "
        f"learning rates asked for make; norm-limit is {steps.rules.norm_limit:g}."
    )


def new_mean(steps: Steps) -> AdapterMean:
    """Return an empty mean for the replies of one cluster."""
    return AdapterMean(
        steps.state.initial.shapes,
        weighting=steps.aggregation.weighting,
        ranks=steps.rank_policy.candidates,
    )


def move_adapters(steps: Steps, round: Round, means: dict[str, AdapterMean]) -> None:
    """Move the adapters of clusters with enough valid replies; the others stay as they are."""
    state, settings = steps.state, steps.aggregation
    moved = {}
    # Devices without a rank are never asked, so their replies are not required.
    members = {
        cluster.name: sum(state.decisions[node].rank is not None for node in cluster.members)
        for cluster in state.clusters
    }
    for name, outcome in round.record.clusters.items():
        mean = means.get(name)
        outcome.replies = mean.count if mean else 0
        needed = min(steps.rules.min_replies, max(1, members[name]))
        if mean is None or mean.count < needed:
            round.note(
                f"{name} keeps its adapter: {outcome.replies} good replies of "
                f"{outcome.asked}, {needed} needed"
            )
            continue
        try:
            aggregate = mean.result(steps.server_rank)
        except (AdapterError, np.linalg.LinAlgError) as error:
            round.note(f"{name} keeps its adapter: its replies have no mean ({error})")
            continue
        outcome.discarded_energy = aggregate.discarded_energy
        outcome.discarded_by_layer = aggregate.discarded_by_layer
        outcome.moved = True
        moved[name] = aggregate.adapter
    moved = share_globally(
        moved,
        {name: means[name].total_weight for name in moved},
        share=settings.global_share,
        rank=steps.server_rank,
    )
    for name, mean_adapter in moved.items():
        if not settings.momentum:
            state.cluster_adapters[name] = mean_adapter
            continue
        step = with_momentum(
            state.cluster_adapters[name],
            mean_adapter,
            state.velocities.get(name),
            momentum=settings.momentum,
            rank=steps.server_rank,
        )
        state.cluster_adapters[name], state.velocities[name] = step.adapter, step.velocity


_MOST_HELD_OUT = 9  # per training example, since held-out is at most 0.9
_SAMPLE = 1  # separates the draw of evaluating devices from that of training devices


def configure_evaluate(
    steps: Steps, server_round: int, config: ConfigRecord, grid: Grid
) -> list[Message]:
    """Return one message per evaluating device: its cluster's adapter, as exported.

    The measured adapter is thus the exported one, also on devices that train at another rank or
    not at all.
    """
    state, online = steps.state, set(grid.get_node_ids())
    fraction = steps.participation.fraction_evaluate
    if not fraction:
        return []
    chosen = state.sample(
        [node for node in state.profiles if node in online],
        fraction,
        (steps.training.seed, server_round, _SAMPLE),
    )
    homes = {node: state.cluster_of(node).name for node in chosen}
    adapters = {name: state.adapter(name, steps.export_rank) for name in set(homes.values())}
    return steps.envelope.adapter_messages(
        MessageType.EVALUATE,
        {node: adapters[name] for node, name in homes.items()},
        server_round=server_round,
        extra=config,
    )


def aggregate_evaluate(
    steps: Steps, round: Round, replies: Iterable[Message]
) -> MetricRecord | None:
    """Return the held-out loss per cluster (``<cluster>/held-out-loss``) and over all devices."""
    for message in replies:
        node = message.metadata.src_node_id
        try:
            if node not in steps.state.profiles:
                raise ReplyError("it was not asked to evaluate in this round.")
            reply = read_evaluate_reply(message, steps.rules, most_tokens=steps.most_tokens(node))
        except ReplyError as error:
            round.refuse(node, "evaluate", error)
            continue
        device = round.device(node, steps.state)
        device.held_out_loss, device.held_out_tokens = reply.loss, reply.num_tokens
    return round.record.conclude_evaluation()


def most_tokens(steps: Steps, node: int) -> int:
    """Return the most tokens that a device's held-out loss is weighted with.

    A device holds out at most nine examples per training example (``held-out``), and an example
    has at most ``max-length`` tokens.
    """
    examples = _MOST_HELD_OUT * steps.state.profiles[node].num_examples
    if steps.training.eval_examples:
        examples = min(examples, steps.training.eval_examples)
    return examples * steps.training.max_length
