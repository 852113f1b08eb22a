"""Records of one round, from which history, log and report are made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from flwr.app import MetricRecord

from flower_strategy.device_time import TimeSpent, time_spent

_MOST_NAMED = 5


@dataclass(kw_only=True)
class DeviceRound:
    """What one device did in one round.

    Attributes
    ----------
    cluster : str
        Its cluster.
    rank : int or None
        Rank that it trained at; None if it only evaluated.
    pace : float
        Expected slowdown: how many times longer than profiled its training takes.
    predicted_seconds, observed_seconds : float or None
        Seconds of download, training and upload, as predicted and as reported.
    transfer_seconds : float or None
        Those of them that download and upload take, by the device's bandwidth or as measured.
    transfer_measured : bool
        Whether the server measured them.
    bytes_down, bytes_up : int
        Bytes of the adapters sent to it and back, for training.
    num_examples : int
        Training examples.
    steps : int
        Steps that it trained, of which the sum over the rounds is its weight in the mean.
    train_loss, held_out_loss : float or None
        Mean losses, nats per response token.
    held_out_tokens : int
        Response tokens that the held-out loss is measured on.
    validation_loss : float or None
        Mean loss on its validation examples.
    validation_tokens : int
        Response tokens that this loss is measured on.
    keeps : str
        The model that it keeps, one of `flower_strategy.messages.KEEPS`; empty before it has
        chosen.
    """

    cluster: str
    rank: int | None = None
    pace: float = 1.0
    predicted_seconds: float | None = None
    observed_seconds: float | None = None
    transfer_seconds: float | None = None
    transfer_measured: bool = False
    bytes_down: int = 0
    bytes_up: int = 0
    num_examples: int = 0
    steps: int = 0
    train_loss: float | None = None
    held_out_loss: float | None = None
    held_out_tokens: int = 0
    validation_loss: float | None = None
    validation_tokens: int = 0
    keeps: str = ""


@dataclass(kw_only=True)
class ClusterRound:
    """What one cluster did in one round.

    Attributes
    ----------
    asked, replies : int
        Devices asked to train, and valid replies.
    kept : int
        Devices that count with what they sent in an earlier round.
    moved : bool
        Whether the cluster's adapter changed.
    train_loss : float or None
        Mean over the replies, weighted by steps.
    held_out_loss : float or None
        Mean over the cluster's devices, weighted by tokens, with the adapter after this round.
    validation_loss : float or None
        The same on the validation examples.
    discarded_energy : float
        Share of the mean's squared singular values cut off at the server's rank.
    discarded_by_layer : dict[str, float]
        The same share for every layer.
    """

    asked: int = 0
    replies: int = 0
    kept: int = 0
    moved: bool = False
    train_loss: float | None = None
    held_out_loss: float | None = None
    validation_loss: float | None = None
    discarded_energy: float = 0.0
    discarded_by_layer: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """A reply that was not used.

    Attributes
    ----------
    node : int
        The node.
    stage : str
        ``profile``, ``train`` or ``evaluate``.
    reason : str
        One sentence.
    late : bool
        Whether the reply did not arrive in time.
    """

    node: int
    stage: str
    reason: str
    late: bool = False


@dataclass(kw_only=True)
class RoundRecord:
    """One round; round 0 holds the evaluation before training.

    Attributes
    ----------
    round : int
        Its number.
    seconds : float
        Wall seconds of the whole round at the server.
    clusters : dict[str, ClusterRound]
        By cluster.
    devices : dict[int, DeviceRound]
        By node.
    refused : list[Refusal]
        Replies that were not used.
    left_out : dict[int, str]
        Node -> why it has no rank.
    notes : list[str]
        Other events: devices that joined, ranks that changed, new clusters.
    """

    round: int
    seconds: float = 0.0
    clusters: dict[str, ClusterRound] = field(default_factory=dict)
    devices: dict[int, DeviceRound] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def device_seconds(self) -> float:
        """Seconds of the slowest device, transfer included, on its own clock."""
        observed = [device.observed_seconds for device in self.devices.values()]
        return max((seconds for seconds in observed if seconds is not None), default=0.0)

    def time_spent(self) -> dict[int, TimeSpent]:
        """Return how each device that trained spent the round."""
        return time_spent(
            (node, device.observed_seconds, device.transfer_seconds)
            for node, device in self.devices.items()
        )

    def shares(self) -> tuple[float, float, float]:
        """Return the shares of training, transfer and waiting in the time of all devices.

        A device waits from its reply until the slowest one's.
        """
        return sum(self.time_spent().values(), TimeSpent()).shares()

    def late_in_training(self) -> set[int]:
        """Return the nodes that did not send their trained adapters in time."""
        return {r.node for r in self.refused if r.late and r.stage == "train"}

    def reasons(self) -> list[str]:
        """Return one phrase per reason of refusal, with the nodes it applies to."""
        nodes: dict[str, list[int]] = {}
        for refusal in self.refused:
            nodes.setdefault(refusal.reason, []).append(refusal.node)
        return [f"{_named(some)}: {reason}" for reason, some in nodes.items()]

    def conclude_training(self) -> MetricRecord:
        """Fill in the clusters' training losses; return the round's sums, energies and loss."""
        devices = self.devices.values()
        trained = [device for device in devices if device.train_loss is not None]
        metrics = MetricRecord(
            {
                "replies": len(trained),
                "refused": len(self.refused),
                "bytes-down": sum(device.bytes_down for device in devices),
                "bytes-up": sum(device.bytes_up for device in devices),
            }
        )
        for name, outcome in self.clusters.items():
            metrics[f"{name}/discarded-energy"] = outcome.discarded_energy
            for layer, share in outcome.discarded_by_layer.items():
                metrics[f"{name}/discarded-energy/{layer}"] = share
            outcome.train_loss = _mean(
                (device.train_loss, device.steps) for device in trained if device.cluster == name
            )
        loss = _mean((device.train_loss, device.steps) for device in trained)
        if loss is not None:
            metrics["train-loss"] = loss
        return metrics

    def conclude_evaluation(self) -> MetricRecord | None:
        """Fill in the clusters' held-out losses; return them and the mean, weighted by tokens."""
        measured = [device for device in self.devices.values() if device.held_out_loss is not None]
        metrics = MetricRecord()
        for name in sorted({device.cluster for device in measured}):
            own = [device for device in measured if device.cluster == name]
            outcome = self.clusters.setdefault(name, ClusterRound())
            outcome.held_out_loss = _mean((one.held_out_loss, one.held_out_tokens) for one in own)
            outcome.validation_loss = _mean(
                (one.validation_loss, one.validation_tokens) for one in own
            )
            if outcome.held_out_loss is not None:
                metrics[f"{name}/held-out-loss"] = outcome.held_out_loss
            if outcome.validation_loss is not None:
                metrics[f"{name}/validation-loss"] = outcome.validation_loss
        loss = _mean((device.held_out_loss, device.held_out_tokens) for device in measured)
        if loss is None:
            return None
        metrics["held-out-loss"] = loss
        return metrics


def _mean(weighted: Iterable[tuple[float | None, int]]) -> float | None:
    pairs = [(value, weight) for value, weight in weighted if value is not None]
    total = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / total if total else None


def _named(nodes: list[int]) -> str:
    """Return nodes as text; only the first few are named."""
    first = ", ".join(map(str, sorted(nodes)[:_MOST_NAMED]))
    more = len(nodes) - _MOST_NAMED
    return f"node{'s' * (len(nodes) > 1)} {first}{f' and {more} more' if more > 0 else ''}"
