"""What the stages of a round share: the run's state, sending, and keeping record."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from flower_strategy.clusters import ClusteringSettings
from flower_strategy.device.profile import device_text
from flower_strategy.device.training import TrainingSettings
from flower_strategy.messages import Envelope
from flower_strategy.ranks.cost import RankPolicy
from flower_strategy.server.exchange import Patience, drop_late, exchange
from flower_strategy.server.records import DeviceRound, Refusal, RoundRecord
from flower_strategy.server.replies import Asked, ReplyError, ReplyRules
from flower_strategy.server.state import RunState
from flower_strategy.settings import AggregationSettings, Participation

logger = logging.getLogger("flwr")

_PROFILE_SECONDS = 60.0
_LONGEST_REASON = 500


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
    _silent_since: dict[int, int]
    _late_messages: set[str]

    @property
    def bank_rank(self) -> int:
        """Rank of the clusters' banks: enough for every device and for the export."""
        return max(*self.rank_policy.candidates, self.export_rank)

    def receive(
        self, grid: Grid, messages: Sequence[Message], timeout: float, *, stage: str
    ) -> Iterator[Message]:
        """Send messages and yield the replies as they arrive; note who did not reply."""
        drop_late(grid, self._late_messages)
        return exchange(
            grid,
            messages,
            patience=self.patience(grid, timeout, stage=stage),
            missing=lambda node, reason: self._late(node, stage, reason),
            gone=lambda node, reason: self._refuse(node, stage, ReplyError(reason)),
            late=self._late_messages,
        )

    def patience(self, grid: Grid, timeout: float, *, stage: str) -> Patience:
        """Return how long a stage waits.

        Measuring takes a device longer than what it does in a round, so profiles have a grace of
        a minute at least. Once there are devices to train, they do not wait longer than that for
        the profiles of others.
        """
        part = self.participation
        if stage != "profile":
            return Patience(timeout=timeout, quorum=part.quorum, grace=part.quorum_grace)
        grace = max(part.quorum_grace, _PROFILE_SECONDS)
        if self.able_nodes(grid):
            timeout = min(timeout, grace)
        return Patience(timeout=timeout, quorum=part.quorum, grace=grace)

    def able_nodes(self, grid: Grid) -> list[int]:
        """Return the nodes that are connected and have a rank."""
        return self.able_among(grid.get_node_ids())

    def able_among(self, nodes: Iterable[int]) -> list[int]:
        """Return those of the nodes that have a rank."""
        among = set(nodes)
        return [node for node, d in self.state.decisions.items() if d.rank and node in among]

    def _device(self, node: int) -> DeviceRound:
        if node not in self._record.devices:
            self._record.devices[node] = DeviceRound(cluster=self.state.cluster_of(node).name)
        return self._record.devices[node]

    def _refuse(self, node: int, stage: str, error: ReplyError) -> None:
        reason = device_text(error, most=_LONGEST_REASON)
        logger.warning("Refused the %s reply of node %d: %s", stage, node, reason)
        self._record.refused.append(Refusal(node, stage, reason))

    def _late(self, node: int, stage: str, reason: str) -> None:
        logger.warning("Node %d is late in %s: %s", node, stage, reason)
        self._record.refused.append(Refusal(node, stage, reason, late=True))
        if stage == "profile":
            self._silent_since[node] = self._record.round

    def _note(self, event: str) -> None:
        logger.info("\t├──> %s", event)
        self._record.notes.append(event)
