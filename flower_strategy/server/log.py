"""Logs a run's progress, in the style of Flower's own log."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flower_strategy.adapters.modules import AdaptedModules
from flower_strategy.adapters.vllm_support import vllm_support
from flower_strategy.device_time import TimeSpent, summed
from flower_strategy.ranks.cost import RankPolicy
from flower_strategy.server.records import DeviceRound, RoundRecord
from flower_strategy.server.state import RunState
from flower_strategy.settings import (
    CheckpointSettings,
    ClusteringSettings,
    EmbeddingSettings,
    Participation,
    ReplyRules,
    TrainingSettings,
)

logger = logging.getLogger("flwr")

_BAR_WIDTH = 12
_MOST_DEVICES = 24


def log_tree(lines: Sequence[str], *, indent: str = "\t") -> None:
    """Log lines as the branches of a tree."""
    for index, line in enumerate(lines):
        logger.info("%s%s %s", indent, "└──>" if index == len(lines) - 1 else "├──>", line)


def log_summary(
    *,
    training: TrainingSettings,
    modules: AdaptedModules | None,
    embedding: EmbeddingSettings,
    clustering: ClusteringSettings,
    participation: Participation,
    policy: RankPolicy,
    rules: ReplyRules,
    checkpoints: CheckpointSettings,
    export_rank: int,
    output: Path | None,
) -> None:
    """Log a run's settings."""
    tree = {
        "Training": [
            f"Model: {training.model} ({training.dtype})",
            f"{_work(training)} of {training.batch_size * training.gradient_accumulation_steps} x "
            f"{training.max_length} tokens at most",
            f"Learning rate: {training.learning_rate:g}, {training.lr_schedule}",
        ],
        "Modules": module_lines(modules),
        "Sampling": [
            f"Fraction: train ({participation.fraction_train:.2f}) | "
            f"evaluate ({participation.fraction_evaluate:.2f})",
            f"Minimum nodes: {participation.min_nodes}",
            f"Quorum: {participation.quorum:.2f}, then {participation.quorum_grace:g} s for late "
            "replies",
        ],
        "Ranks": [
            f"Policy: {policy.name}, candidates {', '.join(map(str, policy.candidates))}",
            "Round deadline: "
            + ("none yet" if policy.deadline is None else f"{policy.deadline:g} s"),
            f"Corrected by observed seconds: {'yes' if participation.rank_correction else 'no'}",
            f"Exported rank: {export_rank}",
        ],
        "Clusters": [
            f"By {clustering.by}, silhouette to split {clustering.threshold:g}, at least "
            f"{clustering.smallest} devices",
            f"Task embedding: {embedding.texts} texts, noise {embedding.noise:g}",
            "Stopped: " + _patience(participation.patience),
            "Clustered again: "
            + (f"every {clustering.every} rounds" if clustering.every else "never"),
        ],
        "Aggregation": [
            f"Mean of what devices last sent, by steps; kept for {participation.keep_uploads} "
            "missed rounds",
            f"Replies needed per cluster: {rules.min_replies}, norm limit {rules.norm_limit:g}",
        ],
        "Output": [
            f"Folder: {output or 'not written'}",
            "Exported: "
            + (f"every {every} rounds and " if (every := checkpoints.save_every) else "")
            + "at the end",
            f"Checkpoints kept: {checkpoints.keep}",
            f"Resumed from: {checkpoints.resume or 'begins anew'}",
        ],
    }
    for number, (head, lines) in enumerate(tree.items(), 1):
        last = number == len(tree)
        logger.info("\t%s %s:", "└──>" if last else "├──>", head)
        for index, line in enumerate(lines, 1):
            stem = "\t\t" if last else "\t│\t"
            logger.info("%s%s %s", stem, "└──" if index == len(lines) else "├──", line)


def module_lines(modules: AdaptedModules | None) -> list[str]:
    """Return which modules of the base model carry factors, and what vLLM makes of that."""
    if modules is None:
        return ["With factors: those of the initial adapter, which the caller has made"]
    lines = [
        f"With factors: {', '.join(modules.names)} ({len(modules.shapes)} modules, "
        f"{modules.share:.1%} of {modules.weights:,} weights)",
        f"Trained: {modules.trained(1):,} numbers per rank; the base model stays as it is",
    ]
    for reason, groups in modules.left_out().items():
        names = ", ".join(dict.fromkeys(group.name for group in groups))
        share = sum(group.weights for group in groups) / modules.weights
        lines.append(f"Without ({share:.1%}): {names}: {reason}")
    return [*lines, vllm_support(modules).says]


def _patience(rounds: int) -> str:
    return f"after {rounds} rounds without a lower validation loss" if rounds else "never"


def _work(training: TrainingSettings) -> str:
    if training.epochs:
        return f"Epochs: {training.epochs:g}, steps"
    if not training.fill_deadline:
        return f"Local steps: {training.local_steps}"
    most = f" ({training.max_epochs:g} epochs of the run at most)" if training.max_epochs else ""
    return f"Local steps: {training.local_steps}, or those that fit a deadline{most},"


def log_resumed(
    server_round: int, path: Path, *, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Log the checkpoint that a run resumes from, and which settings have changed."""
    logger.info("Resumed after round %d, from %s", server_round, path)
    for name, value in now.items():
        if name in before and before[name] != value:
            logger.warning(
                "The run had %s=%r and goes on with %r.",
                name.replace("_", "-"),
                before[name],
                value,
            )


def log_round(server_round: int, num_rounds: int) -> None:
    """Log the heading of a round."""
    logger.info("")
    if server_round == 0:
        logger.info("[DEVICES]")
    else:
        logger.info("[ROUND %d/%d]", server_round, num_rounds)


def log_devices(nodes: Iterable[int], state: RunState, policy: RankPolicy) -> None:
    """Log rank and cluster of the devices that joined."""
    if policy.deadline:
        logger.info("A round may take a device %.1f s.", policy.deadline)
    lines = []
    for node in nodes:
        profile, decision = state.profiles[node], state.decisions[node]
        given = f"rank {decision.rank}" if decision.rank else "LEFT OUT"
        lines.append(
            f"{state.cluster_of(node).name}, {profile.device}"
            f"{f' with {profile.label}' if profile.label else ''} (node {node}): {given}, "
            f"predicted {decision.predicted_seconds:.1f} s, since {decision.reason}"
        )
    log_tree(sorted(lines))


def log_training(record: RoundRecord) -> None:
    """Log what is sent out for training."""
    asked = [device for device in record.devices.values() if device.rank is not None]
    ranks = Counter(device.rank for device in asked)
    logger.info(
        "configure_train: %d devices in %d clusters, %s, %s down",
        len(asked),
        len({device.cluster for device in asked}),
        ", ".join(f"rank {rank} x {count}" for rank, count in sorted(ranks.items())),
        megabytes(sum(device.bytes_down for device in asked)),
    )


def log_reply(node: int, device: DeviceRound, name: str, *, done: int, total: int) -> None:
    """Log one valid training reply, after a bar of the round's progress."""
    logger.info(
        "\t├──> %s %s, %s rank %s (node %d): loss %.3f in %d steps, predicted %.1f s, "
        "observed %.1f s, %s up",
        progress_bar(done, total),
        device.cluster,
        name,
        device.rank,
        node,
        device.train_loss,
        device.steps,
        device.predicted_seconds,
        device.observed_seconds,
        megabytes(device.bytes_up),
    )


def log_losses(record: RoundRecord, state: RunState) -> None:
    """Log the clusters at the end of a round."""
    logger.info(
        "aggregate: %s down, %s up, %d refused, %.1f s",
        megabytes(sum(device.bytes_down for device in record.devices.values())),
        megabytes(sum(device.bytes_up for device in record.devices.values())),
        len(record.refused),
        record.seconds,
    )
    if record.device_seconds:
        training, transfer, waiting = record.shares()
        logger.info(
            "devices: %.0f %% training, %.0f %% transfer, %.0f %% waiting in %.1f s",
            100 * training,
            100 * transfer,
            100 * waiting,
            record.device_seconds,
        )
    lines = []
    for name, outcome in sorted(record.clusters.items()):
        losses = state.losses(name)
        line = f"{name}: held-out loss " + (
            " -> ".join(f"{loss:.3f}" for loss in losses) or "not measured"
        )
        if outcome.asked:
            line += (
                f", {outcome.replies} of {outcome.asked} replies, "
                f"discarded energy {outcome.discarded_energy:.1e}"
            )
        lines.append(line)
    log_tree(lines)


def log_time(state: RunState) -> None:
    """Log how the devices of each class spent the run, and each device if they are few."""
    spent = summed(record.time_spent() for record in state.history)
    if not spent:
        return
    classes: dict[str, list[int]] = {}
    for node in spent:
        classes.setdefault(state.profiles[node].device, []).append(node)
    logger.info("")
    logger.info("Time of the devices in the rounds that they trained in:")
    lines = []
    for kind, nodes in sorted(classes.items()):
        whole = sum((spent[node] for node in nodes), TimeSpent())
        lines.append(f"{kind} ({len(nodes)}): {time_text(whole)}")
        if len(spent) <= _MOST_DEVICES:
            lines += [f"    node {node}: {time_text(spent[node])}" for node in sorted(nodes)]
    log_tree(lines)


def log_export(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Log what was written."""
    logger.info("")
    if not manifest["clusters"]:
        logger.info("Wrote manifest and history to %s; there is no adapter.", folder)
        return
    logger.info("Wrote %d adapters of rank %d:", len(manifest["clusters"]), manifest["rank"])
    log_tree([str(folder / cluster["adapter"]) for cluster in manifest["clusters"]])
    level = logging.INFO if manifest["gguf"]["written"] else logging.WARNING
    logger.log(level, "%s", manifest["gguf"]["says"])


def progress_bar(done: int, total: int) -> str:
    """Return a bar of fixed width, followed by the count.

    Every step gets its own line: a ServerApp's output is a log, which would keep carriage returns.
    """
    filled = _BAR_WIDTH * done // max(total, 1)
    return f"[{'█' * filled}{'░' * (_BAR_WIDTH - filled)}] {done}/{total}"


def time_text(spent: TimeSpent) -> str:
    """Return seconds and shares of training, transport and idle as text."""
    parts = zip(
        ("training", "transport", "idle"),
        (spent.training, spent.transport, spent.idle),
        spent.shares(),
        strict=True,
    )
    return ", ".join(f"{name} {seconds:.1f} s ({share:.0%})" for name, seconds, share in parts)


def megabytes(count: int) -> str:
    """Return a number of bytes as text."""
    return f"{count / 1e6:.1f} MB"
