"""What the stages of a round share: the run's state, sending, and keeping record."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from flower_strategy.clustering import ClusteringSettings
from flower_strategy.exchange import Patience, exchange
from flower_strategy.messages import Envelope
from flower_strategy.ranks import RankPolicy
from flower_strategy.records import DeviceRound, Refusal, RoundRecord
from flower_strategy.replies import Asked, ReplyError, ReplyRules
from flower_strategy.settings import AggregationSettings, Participation
from flower_strategy.state import RunState
from flower_strategy.training import TrainingSettings

logger = logging.getLogger("flwr")


class Stages(Strategy):
    """The part of `FloeStrategy` that its stages are made on.

    Attributes
    ----------
    training : TrainingSettings
        What devices are asked to do.
    envelope : Envelope
        Settings that go with every message.
    rank_policy : RankPolicy
        Gives each device its rank.
    clustering : ClusteringSettings
        How devices are split.
    participation : Participation
        Who takes part.
    aggregation : AggregationSettings
        How adapters are averaged.
    rules : ReplyRules
        What a reply must satisfy.
    export_rank : int
        Rank of evaluated and exported adapters.
    state : RunState
        The run so far.
    """

    training: TrainingSettings
    envelope: Envelope
    rank_policy: RankPolicy
    clustering: ClusteringSettings
    participation: Participation
    aggregation: AggregationSettings
    rules: ReplyRules
    export_rank: int
    state: RunState
    _asked: dict[int, Asked]
    _record: RoundRecord
    _first_record: RoundRecord

    @property
    def bank_rank(self) -> int:
        """Rank of the clusters' banks: enough for every device and for the export."""
        return max(*self.rank_policy.candidates, self.export_rank)

    def receive(
        self, grid: Grid, messages: Sequence[Message], timeout: float, *, stage: str
    ) -> Iterator[Message]:
        """Send messages and yield the replies as they arrive; note who did not reply.

        Profiles are waited for until the timeout, since they decide who takes part at all; in the
        other stages a quorum is enough.
        """
        part = self.participation
        patience = (
            Patience(timeout=timeout)
            if stage == "profile"
            else Patience(timeout=timeout, quorum=part.quorum, grace=part.quorum_grace)
        )
        return exchange(
            grid,
            messages,
            patience=patience,
            missing=lambda node, reason: self._late(node, stage, reason),
            gone=lambda node, reason: self._refuse(node, stage, ReplyError(reason)),
        )

    def _device(self, node: int) -> DeviceRound:
        if node not in self._record.devices:
            self._record.devices[node] = DeviceRound(cluster=self.state.cluster_of(node).name)
        return self._record.devices[node]

    def _refuse(self, node: int, stage: str, error: ReplyError) -> None:
        logger.warning("Refused the %s reply of node %d: %s", stage, node, error)
        self._record.refused.append(Refusal(node, stage, str(error)))

    def _late(self, node: int, stage: str, reason: str) -> None:
        logger.warning("Node %d is late in %s: %s", node, stage, reason)
        self._record.refused.append(Refusal(node, stage, reason, late=True))

    def _note(self, event: str) -> None:
        logger.info("\t├──> %s", event)
        self._record.notes.append(event)
