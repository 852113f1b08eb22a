"""Stops clusters that no longer improve, and has devices choose the models that they keep."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace

from flwr.app import ConfigRecord
from flwr.serverapp import Grid

from flower_strategy.messages import KEEPS
from flower_strategy.server.best import Best
from flower_strategy.server.replies import ReplyError, read_evaluate_reply
from flower_strategy.server.round import Round, Steps
from flower_strategy.server.training_messages import closing_messages

logger = logging.getLogger("flwr")

_NAMES = dict(zip(KEEPS, ("their own model", "the cluster's", "alone"), strict=True))


def conclude_evaluation(
    steps: Steps, round: Round, grid: Grid, config: ConfigRecord, timeout: float
) -> None:
    """Stop clusters whose loss has not fallen for long enough, and send their devices a last word.

    Devices whose clusters stop now, or end the run with an earlier round's adapter, have not seen
    the adapter that is exported: they get it, and choose the model that they keep.
    """
    state, number = steps.state, round.record.round
    judge(steps, round)
    closing = {
        name
        for name, best in state.best.items()
        if best.stopped_in == number
        or (
            number == round.num_rounds
            and best.stopped_in is None
            and best.adapter is not state.cluster_adapters[name]
        )
    }
    messages = closing_messages(steps, closing, number, config, grid) if closing else []
    for message in steps.receive(grid, messages, timeout, stage="evaluate"):
        node = message.metadata.src_node_id
        try:
            reply = read_evaluate_reply(message, steps.rules)
        except ReplyError as error:
            round.refuse(node, "evaluate", error)
            continue
        round.device(node, state).keeps = reply.keeps
    if any(device.keeps for device in round.record.devices.values()):
        counts = Counter(state.kept_models().values())
        said = ", ".join(f"{name} x {counts[key]}" for key, name in _NAMES.items())
        round.note(f"devices keep: {said}")


def judge(steps: Steps, round: Round) -> None:
    """Compare the round's validation losses with those of each cluster's best round.

    A loss is compared over the devices that measured both adapters. A round without any of them
    says nothing of either: best round and patience stay as they are. Once these devices have been
    away for more than ``keep-uploads`` rounds, as many as end what a device counts for, the
    comparison begins anew. A round that left the adapter as it was is no round to wait for.
    """
    state, record, patience = steps.state, round.record, steps.participation.patience
    for cluster in state.clusters:
        name, best = cluster.name, state.best.get(cluster.name)
        devices = {n: record.devices[n] for n in cluster.members if n in record.devices}
        losses = {
            node: (device.validation_loss, device.validation_tokens)
            for node, device in devices.items()
            if device.validation_loss is not None
        }
        if not losses or (best is not None and best.stopped_in is not None):
            continue
        if best is not None and not record.clusters[name].moved:
            continue
        change = None if best is None else best.change(losses)
        wait = steps.participation.keep_uploads
        if best is not None and change is None and best.uncompared < wait:
            state.best[name] = replace(best, uncompared=best.uncompared + 1)
            continue
        if best is None or change is None or change < 0:
            adapter = state.cluster_adapters[name]
            state.best[name] = Best(round=record.round, adapter=adapter, losses=losses)
            continue
        best = replace(best, waited=best.waited + 1, uncompared=0)
        if patience and best.waited >= patience:
            best = replace(best, stopped_in=record.round)
            state.cluster_adapters[name] = best.adapter
            round.note(
                f"{name} stops: its validation loss has not fallen for {best.waited} rounds; "
                f"its adapter is that of round {best.round}"
            )
        state.best[name] = best


def all_stopped(steps: Steps) -> bool:
    """Return whether no cluster trains any more, nor will after clustering again; log it."""
    state = steps.state
    stopped = [name for name, best in state.best.items() if best.stopped_in is not None]
    over = 0 < len(state.clusters) == len(stopped) and not steps.clustering.every
    if over:
        logger.info("All clusters have stopped training: the run ends.")
    return over
