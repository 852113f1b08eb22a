"""What a run says while it goes, in the style of Flower's own log."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flower_strategy.ranks import RankPolicy
from flower_strategy.state import DeviceRound, RoundRecord, RunState

if TYPE_CHECKING:
    from flower_strategy.strategy import FloeStrategy

logger = logging.getLogger("flwr")


def log_tree(lines: Sequence[str], *, indent: str = "\t") -> None:
    """Log lines as the branches of a tree."""
    for index, line in enumerate(lines):
        logger.info("%s%s %s", indent, "└──>" if index == len(lines) - 1 else "├──>", line)


def log_summary(strategy: FloeStrategy) -> None:
    """Log a strategy's settings."""
    training, embedding = strategy.training, strategy.envelope.embedding
    deadline = getattr(strategy.rank_policy, "deadline", None)
    logger.info("\t├──> Training:")
    logger.info("\t│\t├── Model: %s (%s)", training.model, training.dtype)
    logger.info(
        "\t│\t├── Local steps: %d of %d x %d tokens",
        training.local_steps,
        training.batch_size,
        training.max_length,
    )
    logger.info("\t│\t└── Learning rate: %g", training.learning_rate)
    logger.info("\t├──> Ranks:")
    logger.info(
        "\t│\t├── Policy: %s, candidates %s",
        strategy.rank_policy.name,
        ", ".join(map(str, strategy.rank_policy.candidates)),
    )
    logger.info(
        "\t│\t├── Round deadline: %s", "from the profiles" if not deadline else f"{deadline:g} s"
    )
    logger.info("\t│\t└── Exported rank: %d", strategy.export_rank)
    logger.info("\t├──> Clusters:")
    logger.info(
        "\t│\t├── Task embedding: %d texts, clip %g, noise %g",
        embedding.texts,
        embedding.clip,
        embedding.noise,
    )
    logger.info("\t│\t└── Silhouette to split: %g", strategy.clustering.threshold)
    logger.info("\t└──> Replies:")
    logger.info("\t\t├── Needed per cluster: %d", strategy.rules.min_replies)
    logger.info("\t\t└── Output: %s", strategy.output or "not written")


def log_round(server_round: int, num_rounds: int) -> None:
    """Log the head of a round."""
    logger.info("")
    if server_round == 0:
        logger.info("[DEVICES]")
    else:
        logger.info("[ROUND %d/%d]", server_round, num_rounds)


def log_devices(nodes: Iterable[int], state: RunState, policy: RankPolicy) -> None:
    """Log rank and cluster of devices that joined."""
    deadline = getattr(policy, "deadline", None)
    if deadline:
        logger.info("A round may take a device %.1f s.", deadline)
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


def log_reply(node: int, device: DeviceRound, name: str) -> None:
    """Log one good training reply."""
    logger.info(
        "\t├──> %s, %s rank %s (node %d): loss %.3f, predicted %.1f s, observed %.1f s, %s up",
        device.cluster,
        name,
        device.rank,
        node,
        device.train_loss,
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


def log_export(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Log what was written."""
    logger.info("")
    logger.info("Wrote %d adapters of rank %d:", len(manifest["clusters"]), manifest["rank"])
    log_tree([str(folder / cluster["adapter"]) for cluster in manifest["clusters"]])


def megabytes(count: int) -> str:
    """Return a number of bytes as text."""
    return f"{count / 1e6:.1f} MB"
