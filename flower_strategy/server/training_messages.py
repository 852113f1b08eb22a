"""The messages that ask devices to train and to evaluate."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, Message, MessageType
from flwr.serverapp import Grid

from flower_strategy.messages import (
    BEGAN_KEY,
    COUNTED_KEY,
    DEADLINE_KEY,
    FINAL_KEY,
    RANK_KEY,
    ROUNDS_KEY,
    RUN_KEY,
    STORED_KEY,
    message_bytes,
    received_adapter,
)
from flower_strategy.profile import DeviceProfile
from flower_strategy.ranks.cost import training_seconds, transfer_seconds
from flower_strategy.ranks.steps import planned_steps, training_time
from flower_strategy.server import log
from flower_strategy.server.links import planning_profiles, with_links
from flower_strategy.server.records import ClusterRound
from flower_strategy.server.replies import Sent
from flower_strategy.server.round import Round, Steps
from flower_strategy.server.update_norms import asked_length
from flower_strategy.server.uploads import Upload
from flower_strategy.settings import TrainingSettings

_SAMPLE = 1  # separates the draw of evaluating devices from that of training devices

_FARTHEST = 4
"""By its examples or its speed, a device may move at most so many times as far as the median one of
its round. It names them itself, and the length that its update may have must not be its own to set.
"""


def configure_train(
    steps: Steps,
    round: Round,
    server_round: int,
    config: ConfigRecord,
    grid: Grid,
) -> list[Message]:
    """Return one message per training device: its cluster's adapter at its rank."""
    state = steps.state
    able = steps.able_nodes(grid)
    round.absent = set(state.uploads) - set(able)
    chosen = state.sample(
        able,
        steps.participation.fraction_train,
        (steps.training.seed, server_round),
        least=steps.rules.min_replies,
    )
    wanted = {
        node: _order(steps, node, rank)
        for node in chosen
        if (rank := state.decisions[node].rank) is not None and not state.stopped(node)
    }
    adapters = {
        order: state.adapter(order.cluster, order.down).with_scaling(
            steps.training.scaling(order.rank)
        )
        for order in set(wanted.values())
    }
    # The caller's keys take precedence in the messages, so they do here.
    record = steps.training.to_record()
    record.update(config)
    training = TrainingSettings.from_record(record)
    profiles = planning_profiles(steps)
    planned = _planned(steps, profiles, training, wanted, round, server_round)
    filled = training.fill_deadline and not training.epochs
    deadline = steps.rank_policy.deadline if filled else None
    keys = {
        node: _Keys(
            began=known.began,
            counted=known.counted,
            stored=known.round,
            rank=order.rank,
            local_steps=None if training.epochs else planned[node],
            deadline=_training_deadline(profiles[node], order.rank, deadline),
        )
        for node, order in wanted.items()
        for known in [state.uploads.get(node, _UNKNOWN)]
    }
    records = {key: key.to_record() for key in set(keys.values())}
    messages = steps.envelope.adapter_messages(
        MessageType.TRAIN,
        {node: adapters[order] for node, order in wanted.items()},
        server_round=server_round,
        extra=ConfigRecord(
            {
                **config,
                ROUNDS_KEY: round.num_rounds,
                RUN_KEY: state.run,
            }
        ),
        own={node: records[key] for node, key in keys.items()},
        exact={node for node, order in wanted.items() if order.stateless},
    )
    # What devices read differs from the adapters by the rounding of eight bits.
    first = {wanted[message.metadata.dst_node_id]: message for message in reversed(messages)}
    read = {key: received_adapter(message) for key, message in first.items()}
    # A length grows with the sum of the learning rates, which follows a device's own steps.
    lengths = {key: asked_length(adapter, move=1.0) for key, adapter in read.items()}
    counts = {node: state.profiles[node].num_examples for node in wanted}
    # A device that says it has more examples, or is faster, may move further: not without end.
    most = _FARTHEST * int(np.median([*counts.values()] or [0]))
    most_steps = _FARTHEST * int(np.median([*planned.values()] or [1]))
    counted = {node: min(count, most_steps) for node, count in planned.items()}
    # With epochs the settings themselves say how many steps they are.
    different = set() if training.epochs else set(counted.values())
    asked = {count: training.changed(local_steps=count) for count in different}
    round.sent = {}
    for node, order in wanted.items():
        own = training if training.epochs else asked[counted[node]]
        examples = min(counts[node], max(most, 1))
        move = steps.asked_move(
            own,
            num_examples=examples,
            server_round=server_round,
            num_rounds=round.num_rounds,
        )
        highest_move = own.steps(examples) * training.learning_rate
        round.sent[node] = Sent(
            cluster=order.cluster,
            rank=order.rank,
            adapter=read[order],
            most_examples=counts[node],
            length=move * lengths[order],
            move=move,
            highest=highest_move * lengths[order],
            highest_move=highest_move,
            steps=planned[node],
            usual_steps=training.steps(counts[node]),
            began=keys[node].began,
        )
    _record(steps, round, {key: message_bytes(message) for key, message in first.items()}, wanted)
    log.log_training(round.record)
    return messages


@dataclass(frozen=True)
class _Order:
    """What a device is sent: its cluster's adapter, and at which rank it trains.

    A device that keeps an adapter of its own gets its cluster's at the export rank at least; one
    that keeps nothing trains all that it gets.
    """

    cluster: str
    rank: int
    down: int
    stateless: bool


_UNKNOWN = Upload(began=0)
"""What is known of a device that has not sent an adapter of its own."""


@dataclass(frozen=True)
class _Keys:
    """What a message has for its device alone, see `flower_strategy.messages`."""

    began: int
    counted: int
    stored: int
    rank: int
    local_steps: int | None
    deadline: float

    def to_record(self) -> ConfigRecord:
        record = ConfigRecord(
            {
                BEGAN_KEY: self.began,
                COUNTED_KEY: self.counted,
                STORED_KEY: self.stored,
                RANK_KEY: self.rank,
                DEADLINE_KEY: self.deadline,
            }
        )
        if self.local_steps is not None:
            record["local-steps"] = self.local_steps
        return record


def _training_deadline(profile: DeviceProfile, rank: int, deadline: float | None) -> float:
    """Return the seconds that a round's transport leaves for training; 0 without a deadline.

    Milliseconds are enough, and devices with the same keys share a message.
    """
    if deadline is None:
        return 0.0
    return max(round(training_time(profile, rank, deadline=deadline), 3), 0.001)


def _order(steps: Steps, node: int, rank: int) -> _Order:
    state = steps.state
    stateless = not state.keeps_state(node)
    down = rank if stateless else max(rank, steps.export_rank)
    return _Order(state.cluster_of(node).name, rank, down, stateless)


def _planned(
    steps: Steps,
    profiles: Mapping[int, DeviceProfile],
    training: TrainingSettings,
    wanted: Mapping[int, _Order],
    round: Round,
    server_round: int,
) -> dict[int, int]:
    state, pace, deadline = steps.state, steps.state.slowdown_factors(), steps.rank_policy.deadline
    return {
        node: planned_steps(
            profiles[node],
            order.rank,
            training,
            # Training code of one's own may not follow the message, only the settings.
            deadline=None if order.stateless else deadline,
            pace=pace.get(node, 1.0),
            taken=state.steps.get(node, 0),
            server_round=server_round,
            num_rounds=round.num_rounds,
        )
        for node, order in wanted.items()
    }


def _record(
    steps: Steps, round: Round, sizes: Mapping[_Order, int], wanted: Mapping[int, _Order]
) -> None:
    pace = steps.state.slowdown_factors()
    profiles = with_links(steps.state.profiles, steps.state.links)
    for node, sent in round.sent.items():
        device, rank = round.device(node, steps.state), wanted[node].rank
        device.rank, device.pace = rank, pace.get(node, 1.0)
        device.bytes_down = sizes[wanted[node]]
        profile = profiles[node]
        training = training_seconds(profile, rank, local_steps=sent.steps)
        device.predicted_seconds = device.pace * training + transfer_seconds(
            profile, bytes_up=rank * profile.upload_per_rank, bytes_down=device.bytes_down
        )
        round.record.clusters.setdefault(sent.cluster, ClusterRound()).asked += 1


def configure_evaluate(
    steps: Steps, round: Round, server_round: int, config: ConfigRecord, grid: Grid
) -> list[Message]:
    """Return one message per evaluating device: its cluster's adapter, as exported.

    The measured adapter is thus the exported one but for the rounding of eight bits, also on
    devices that train at another rank or not at all. The last round's messages are final. Devices
    of a cluster that has stopped are asked then, and only if they were not asked when it did.
    """
    state, last = steps.state, server_round == round.num_rounds
    asked = state.kept_models() if last else {}
    nodes = [
        node
        for node in _evaluating(steps, grid)
        if not state.stopped(node) or (last and node not in asked)
    ]
    return _evaluation(steps, nodes, server_round, config, final=last)


def closing_messages(
    steps: Steps, clusters: Collection[str], server_round: int, config: ConfigRecord, grid: Grid
) -> list[Message]:
    """Return the final messages to devices of some clusters, with these clusters' best adapters."""
    home = steps.state.cluster_of
    nodes = [node for node in _evaluating(steps, grid) if home(node).name in clusters]
    return _evaluation(steps, nodes, server_round, config, final=True, best=True)


def _evaluating(steps: Steps, grid: Grid) -> list[int]:
    """Return the devices that evaluate: the same ones in every round, so that rounds compare."""
    fraction, online = steps.participation.fraction_evaluate, set(grid.get_node_ids())
    if not fraction:
        return []
    present = [node for node in steps.state.profiles if node in online]
    return steps.state.sample(present, fraction, (steps.training.seed, 0, _SAMPLE))


def _evaluation(
    steps: Steps,
    nodes: Sequence[int],
    server_round: int,
    config: ConfigRecord,
    *,
    final: bool,
    best: bool = False,
) -> list[Message]:
    state = steps.state
    homes = {node: state.cluster_of(node).name for node in nodes}
    rank = steps.export_rank
    adapters = {name: state.adapter(name, rank, best=best) for name in set(homes.values())}
    own = None
    if final:
        config = ConfigRecord({**config, FINAL_KEY: True, RUN_KEY: state.run})
        uploads = {node: state.uploads.get(node, _UNKNOWN) for node in nodes}
        own = {
            node: ConfigRecord({BEGAN_KEY: known.began, COUNTED_KEY: known.counted})
            for node, known in uploads.items()
        }
    return steps.envelope.adapter_messages(
        MessageType.EVALUATE,
        {node: adapters[name] for node, name in homes.items()},
        server_round=server_round,
        extra=config,
        own=own,
    )
