"""The second stage of a round: devices train, and their clusters' adapters move."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import AdapterError, AdapterState, Float32Array
from flower_strategy.adapters.mean import AdapterMean
from flower_strategy.clusters import sketch_adapter
from flower_strategy.server import log
from flower_strategy.server.contributions import (
    add_kept,
    begun,
    count_misses,
    keep,
    note_counted,
    standing,
)
from flower_strategy.server.links import measure
from flower_strategy.server.replies import (
    ReplyError,
    Sent,
    TrainReply,
    read_evaluate_reply,
    read_train_reply,
)
from flower_strategy.server.round import Round, Steps
from flower_strategy.server.update_norms import LengthJudge, OwnLength, update_norm
from flower_strategy.server.uploads import Upload, files_of

logger = logging.getLogger("flwr")

_HEAVIEST = 10
"""How many times the median steps of its round a device weighs at most: it says itself how fast it
is, and so how many steps it is asked for."""

_NOTHING, _NO_ARRAYS = AdapterState({}), ArrayRecord()


@dataclass(frozen=True, eq=False)
class _Judged:
    """A valid reply that has been added to a mean, without its adapter."""

    node: int
    cluster: str
    norm: float
    times: float
    reply: TrainReply
    bytes_up: int
    sketch: Float32Array | None
    upload: Upload | None
    steps: int


@dataclass(eq=False)
class _Folded:
    """The means that a round's replies are added to.

    ``odd`` holds absurdly long updates; whether they count is decided at the end of the round.
    """

    judge: LengthJudge
    total: int
    means: dict[str, AdapterMean] = field(default_factory=dict)
    odd_means: dict[str, AdapterMean] = field(default_factory=dict)
    odd: list[_Judged] = field(default_factory=list)
    shortened: list[_Judged] = field(default_factory=list)
    lengths: dict[int, OwnLength] = field(default_factory=dict)
    count: int = 0

    def own_length(self, steps: Steps, adapter: AdapterState) -> OwnLength:
        """Return how long own adapters of this one's rank and scaling are expected to be."""
        rank = adapter.rank
        if rank not in self.lengths:
            initial = steps.state.initial.resized(rank).with_scaling(adapter.scaling)
            self.lengths[rank] = OwnLength.of(initial)
        return self.lengths[rank]


def aggregate_train(steps: Steps, round: Round, replies: Iterable[Message]) -> MetricRecord:
    """Add replies to their clusters' means as they arrive, then move the adapters.

    Every reply is judged by itself and then dropped. The result does not depend on the order of
    the replies (except for float32 rounding), and memory does not grow with their number; see
    `flower_strategy.server.update_norms` and `flower_strategy.server.uploads`.
    """
    folded = _Folded(LengthJudge(steps.rules.norm_limit), total=len(round.sent))
    round.most_steps = _most_steps(steps, round)
    for message in replies:
        node = message.metadata.src_node_id
        try:
            if node not in round.sent:
                raise ReplyError("it was not asked to train in this round.")
            sent = round.sent.pop(node)
            # Until its reply counts, it has missed the round.
            round.absent.add(node)
            reply = read_train_reply(message, sent, steps.rules, server_round=round.record.round)
            _fold(steps, round, folded, node, sent, reply)
        except (ReplyError, AdapterError) as error:
            round.refuse(node, "train", ReplyError(str(error)))
    _judge_odd(steps, round, folded)
    _note_shortened(steps, round, folded.shortened)
    count_misses(steps, round)
    steps.move_adapters(folded.means)
    steps.uploads.keep_only(files_of(steps.state.uploads))
    return round.record.conclude_training()


def _most_steps(steps: Steps, round: Round) -> float:
    """Return the most steps that a device of the round weighs."""
    before = steps.state.steps
    counts = [before.get(node, 0) + sent.steps for node, sent in round.sent.items()]
    return _HEAVIEST * float(np.median(counts or [1]))


def _fold(
    steps: Steps, round: Round, folded: _Folded, node: int, sent: Sent, reply: TrainReply
) -> None:
    """Add one reply to its cluster's mean, or to that of the absurdly long updates."""
    upload = begun(steps, node, sent, reply, server_round=round.record.round)
    if upload is None:
        norm = update_norm(sent.adapter, reply.adapter)
        length, highest = sent.length, sent.highest
    else:
        norm = update_norm(reply.adapter.scaled(0.0), reply.adapter)
        own = folded.own_length(steps, reply.adapter)
        length, highest = own.after(upload.move), own.after(upload.highest_move)
    verdict = folded.judge.judge(norm, length, highest=highest)
    means = folded.odd_means if verdict.odd else folded.means
    if sent.cluster not in means:
        means[sent.cluster] = steps.new_mean()
    count = steps.state.steps.get(node, 0) + reply.steps
    weight = min(count, round.most_steps)
    if upload is None:
        means[sent.cluster].add(reply.adapter, weight=weight, sent=sent.adapter, kept=verdict.kept)
    else:
        upload = replace(upload, kept=verdict.kept)
        upload = keep(steps, round, node, upload, sent, reply.arrays)
        means[sent.cluster].add(standing(steps, upload, reply.adapter), weight=weight)
    by_adapter = steps.clustering.by == "adapter" and not steps.state.split_by_adapter
    judged = _Judged(
        node=node,
        cluster=sent.cluster,
        norm=norm,
        times=norm / length if length else math.inf,
        reply=replace(reply, adapter=_NOTHING, arrays=_NO_ARRAYS),
        bytes_up=int8.encoded_bytes(reply.adapter)
        if int8.SCALES_KEY in reply.arrays
        else reply.adapter.num_bytes,
        sketch=sketch_adapter(reply.adapter, rank=steps.rank_policy.candidates[0])
        if by_adapter and not steps.state.has_sketch(node)
        else None,
        upload=upload,
        steps=count,
    )
    if verdict.odd:
        folded.odd.append(judged)
        return
    if verdict.kept < 1:
        folded.shortened.append(judged)
    _accept(steps, round, folded, judged)


def _accept(steps: Steps, round: Round, folded: _Folded, judged: _Judged) -> None:
    """Record a reply that counts."""
    folded.count += 1
    state, node, reply = steps.state, judged.node, judged.reply
    round.accepted.add(node)
    round.absent.discard(node)
    state.steps[node] = judged.steps
    if judged.upload is None:
        state.stateless.add(node)
        state.uploads.pop(node, None)
    else:
        state.stateless.discard(node)
        if judged.upload.file:
            state.uploads[node] = judged.upload
    if judged.sketch is not None:
        state.sketches[node] = judged.sketch
    device = round.device(node, state)
    device.train_loss = reply.loss
    device.num_examples, device.bytes_up = reply.num_examples, judged.bytes_up
    device.steps = reply.steps
    profile = state.profiles[node]
    measure(device, profile, reply, round.seen_seconds.get(node))
    name = profile.device
    log.log_reply(node, device, name, done=folded.count, total=folded.total)


def _judge_odd(steps: Steps, round: Round, folded: _Folded) -> None:
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
        _accept(steps, round, folded, judged)


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
    return AdapterMean(steps.state.initial.shapes)


def move_adapters(steps: Steps, round: Round, means: dict[str, AdapterMean]) -> None:
    """Move the adapters of clusters with enough valid replies; the others stay as they are.

    Devices that did not train in this round count with what they last sent.
    """
    state = steps.state
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
            kept = add_kept(steps, round, name, mean)
            aggregate = mean.result(steps.server_rank)
            check_sendable(steps, aggregate.adapter)
        except (AdapterError, np.linalg.LinAlgError) as error:
            limit = "" if steps.rules.norm_limit else _SET_A_LIMIT
            round.note(
                f"{name} keeps its adapter: its replies have no mean that can be sent "
                f"({error}){limit}"
            )
            continue
        outcome.kept = len(kept)
        outcome.discarded_energy = aggregate.discarded_energy
        outcome.discarded_by_layer = aggregate.discarded_by_layer
        outcome.moved = True
        state.cluster_adapters[name] = aggregate.adapter
        note_counted(steps, round, name, kept)


_SET_A_LIMIT = (
    "; with norm-limit=0 one reply can do that, for as long as it counts: resume after the round "
    "before, with norm-limit=10"
)


def check_sendable(steps: Steps, adapter: AdapterState) -> None:
    """Check that a cluster's adapter can be sent to its devices, at every rank and scaling.

    Raises
    ------
    AdapterError
        It holds a number that is too large for eight bits.
    """
    # A lower rank has its first terms. The smaller the scaling, the longer is B; devices that
    # evaluate get a scaling of 1.
    smallest = min(1.0, *map(steps.training.scaling, steps.rank_policy.candidates))
    int8.encode(steps.state.able(adapter, steps.server_rank).with_scaling(smallest))


_MOST_HELD_OUT = 18
"""Per training example: held-out is at most 0.9, and validation half of the others."""


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
        device.validation_loss = reply.validation_loss
        device.validation_tokens, device.keeps = reply.validation_tokens, reply.keeps
    return round.record.conclude_evaluation()


def most_tokens(steps: Steps, node: int) -> int:
    """Return the most tokens that a device's losses are weighted with.

    A device holds out at most 18 examples per training example (``held-out``, ``validation``), and
    an example has at most ``max-length`` tokens.
    """
    examples = _MOST_HELD_OUT * steps.state.profiles[node].num_examples
    if steps.training.eval_examples:
        examples = min(examples, steps.training.eval_examples)
    return examples * steps.training.max_length
